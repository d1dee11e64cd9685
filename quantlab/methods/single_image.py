"""A batch of one image, with which BatchNorm cannot train where it has one value per channel. Found before any work."""

import copy

import torch

from quantlab.errors import RequestError
from quantlab.methods.base import Method, RunContext, seeded
from quantlab.methods.pretrain import Pretrain
from quantlab.tasks.base import to_device


def refuse_single_images(context: RunContext, method: Method) -> None:
    """Tries the network on one image, if that is what it will be trained on at a time. A larger batch costs nothing here.

    Raises:
        RequestError: a layer cannot train on it; what to type.
    """
    if not context.config.method.trains_network:
        return
    trainings = [("model.pretrain.batch_size" if isinstance(method, Pretrain) else "method.batch_size", method)]
    if method.needs_full_precision and not getattr(context.model, "has_weights", False):
        trainings.append(("model.pretrain.batch_size", Pretrain(None, context)))
    processes = context.accelerator.num_processes
    for key, training in trainings:
        batch = training.batch_indices(0)
        if len(batch) < 2 * processes and (problem := _refusal_of_one(context, training, batch[:1])):
            images = len(getattr(training, "trained_on", training.dataset))
            remedy = f"type {key}={2 * processes}" if images >= 2 * processes else "give more images"
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise RequestError(f"{key}: a step has {len(batch)} of the {images} training images, but model={context.config.model.name} "
                               f"normalizes over the batch (torch: {problem}), allowed: at least 2 images{each}; {remedy}")


@torch.no_grad()
def _refusal_of_one(context: RunContext, training: Method, index: list[int]) -> str | None:
    model = copy.deepcopy(context.model).train()
    if hasattr(model, "activate"):      # a supernet
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
