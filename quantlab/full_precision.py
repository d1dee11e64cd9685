"""Full-precision weights for a model: from a file, from the model itself, or trained once and cached."""

import logging
from dataclasses import replace

from quantlab.config import instantiate, to_plain
from quantlab.errors import RequestError
from quantlab.methods.base import RunContext, run_length
from quantlab.methods.pretrain import CACHE, Pretrain, source_of
from quantlab.models.weight_names import match
from quantlab.models.weights import read
from quantlab.run.directory import RunDirectory
from quantlab.trainer import Trainer, seed_everything

logger = logging.getLogger("quantlab")


def build_model(section, task):
    """The model that a config's `model` section describes, its initial weights drawn from `section.pretrain.seed`."""
    seed_everything(section.pretrain.seed)
    return instantiate(section, task=task)


def given_model(section, task, key: str = "model"):
    """`build_model`, with the weights of the file that the section names, if it names one. `key`: where the config
    has the section.
    """
    model = build_model(section, task)
    if section.weights is not None:
        load_weights(model, section.weights, f"{key}.weights")
    return model


def load_weights(model, path: str, key: str) -> None:
    """Load a file of weights into `model`, as `weights.read` and `weight_names.match` take it. Raises RequestError in
    one line for anything that is wrong with it; the model is then unchanged.

    With other classes than the file's the last layer is new: then `has_weights` is False, and the recipe trains on from
    the file. What is to be said of it, lines for the run's log, becomes `model.said_of_weights`.
    """
    tensors, facts = read(path, key)
    what = f"{key}: {path}"
    if "bits" in facts or any(name.endswith(".codes") for name in tensors):
        raise RequestError(
            f"{what} holds a model quantized to {facts.get('bits', 'integers')}, allowed: weights in full precision, as"
            " method=pretrain leaves them; they are quantized to the bits of this run's quantizer"
        )
    network = Pretrain.weights_of(model)
    found = match(tensors, network, what)
    network.load_state_dict(found.tensors)
    model.has_weights, model.weights_from = not found.new, f"{key}={path}"
    model.said_of_weights = ["; ".join([f"{what}: loaded", *found.notes])]
    if found.new:
        model.said_of_weights.append(
            f"{key}: {', '.join(found.new)} does not come from the file and is new; where the method starts "
            "from full precision, the recipe of model.pretrain trains on first"
        )


def say_of_weights(model) -> None:
    """Log what `load_weights` had to say: it is asked before there is a run to log to."""
    for line in getattr(model, "said_of_weights", ()):
        logger.info(line)


def provide_full_precision(context: RunContext) -> None:
    """Give `context.model` its full-precision weights, unless it came with some: the cache's, or trained now."""
    if getattr(context.model, "has_weights", False):
        logger.info("full-precision %s: %s", context.config.model.name, source_of(context.model))
    else:
        train_or_restore(context)
    context.model.to(context.device).eval()


def full_precision_at_hand(context: RunContext) -> bool:
    """Give `context.model` full-precision weights if that takes no training: those it came with, those of
    `model.weights`, or the
    cache's; whether there are any. Raises RequestError for a file that cannot be used."""
    model, path = context.model, context.config.model.weights
    if path is not None and context.saved_model is not None:  # else they are loaded
        load_weights(model, path, "model.weights")
    pretrain = Pretrain(None, context)
    if not getattr(model, "has_weights", False) and not pretrain.restore(pretrain.steps):
        return False
    model.to(context.device).eval()
    return True


def train_or_restore(context: RunContext) -> None:
    """The weights of `method=pretrain` with this model and task, made now if they are not in the cache.

    The training run lies in the cache, so one that is interrupted goes on when any run next asks for the same weights.
    It obeys `trainer.max_steps`, which makes a run short in all its parts; `trainer.epochs` counts epochs of the method
    alone.
    """
    trainer = context.config.trainer.model_copy(update={"epochs": None})
    context = replace(context, config=context.config.model_copy(update={"trainer": trainer}))
    name, pretrain = context.config.model.name, Pretrain(None, context)
    total = run_length(trainer, pretrain.steps, pretrain.steps_per_epoch)
    facts = pretrain.cache_facts(total)
    if total < pretrain.steps:
        logger.warning(
            "full-precision %s: trainer.max_steps cuts its training from %d to %d steps; its numbers are a smoke"
            " test's",
            name,
            pretrain.steps,
            total,
        )
    if pretrain.restore(total):
        return
    if context.accelerator.num_processes > 1:
        raise RequestError(
            f"full-precision {name} is not in the cache yet, and several processes would wait for each "
            "other to train it; type method=pretrain with this task and model first"
        )
    with context.cache.lock(CACHE, facts):
        if pretrain.restore(total):
            return
        path = context.cache.folder(CACHE, facts) / "run"
        directory = RunDirectory(path)
        if directory.holds_a_run():
            directory = RunDirectory.open(path)
        else:
            directory = RunDirectory.create(path, to_plain(context.config), [])
        what = f"training {name} in full precision (once, cached)"
        logger.info("%s: %d steps", what, total)
        Trainer(trainer, directory, context.accelerator, context.config.model.pretrain.seed).fit(pretrain, what)
        pretrain.keep()
        directory.write_status("completed", exit_code=0)
