"""Batches too small: of one image, with which BatchNorm cannot train where it has one value per channel, or of fewer
images than there are processes. Found before any work.
"""

import copy

import torch

from quantlab.errors import RequestError
from quantlab.methods.base import Method, RunContext, run_length, seeded
from quantlab.methods.pretrain import Pretrain
from quantlab.tasks.base import to_device


def refuse_single_images(context: RunContext, method: Method) -> None:
    """Tries the network on one image, if that is what a step will train on. Larger batches cost nothing here.

    Raises:
        RequestError: a layer cannot train on it, or a process would have no image; what to type.
    """
    if not context.config.method.trains_network:
        return
    trainings = [("model.pretrain.batch_size" if isinstance(method, Pretrain) else "method.batch_size", method)]
    if method.needs_full_precision and not getattr(context.model, "has_weights", False):
        trainings.append(("model.pretrain.batch_size", Pretrain(None, context)))
    processes = context.accelerator.num_processes
    for key, training in trainings:
        usual, batch = training.batch_indices(0), _smallest_batch(context, training)
        if len(batch) >= 2 * processes:
            continue
        problem = _refusal_of_one(context, training, batch[:1])
        least = 1 if problem is None else 2
        if len(batch) >= least * processes:
            continue
        images = len(getattr(training, "trained_on", training.dataset))
        name = context.config.model.name
        why = "" if problem is None else f", but model={name} normalizes over the batch (torch: {problem})"
        each = f" in each of {processes} processes" if processes > 1 else ""
        allowed = f"at least {least} image{'s'[: least > 1]}{each}"
        if len(usual) > len(batch):
            step, remedy = "the last step of an epoch", "type trainer.drop_last=true"
        else:
            step, remedy = "a step", f"type {key}={least * processes}"
            if images < least * processes:
                remedy = "give more images"
        raise RequestError(
            f"{key}: {step} has {len(batch)} of the {images} training images{why}, allowed: {allowed}; {remedy}"
        )


def _smallest_batch(context: RunContext, training: Method) -> list[int]:
    """The batch of an epoch's last step, which trainer.drop_last=false makes smaller than the others, or of the run's
    last step if that comes before.
    """
    steps = run_length(context.config.trainer, training.steps, training.steps_per_epoch)
    return training.batch_indices(min(steps, training.steps_per_epoch or steps) - 1)


@torch.no_grad()
def _refusal_of_one(context: RunContext, training: Method, index: list[int]) -> str | None:
    model = copy.deepcopy(context.model).train()
    if hasattr(model, "activate"):  # a supernet
        model.activate(model.space.sample(seeded(0)))
    with torch.random.fork_rng():
        batch = to_device(training.collate(training.dataset.__getitems__(index)), context.device)
        try:
            model.training_loss(context.task.prepare(batch, train=True))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return str(error)
    return None
