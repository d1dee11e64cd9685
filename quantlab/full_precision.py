"""Full-precision weights for a model: from a file, from the model itself, or trained once and cached."""

import logging
from dataclasses import replace
from pathlib import Path

from quantlab.checkpoint import load_model, strict_load
from quantlab.config import instantiate, to_plain
from quantlab.errors import RequestError
from quantlab.methods.base import RunContext
from quantlab.methods.pretrain import CACHE, Pretrain
from quantlab.run_directory import RunDirectory
from quantlab.trainer import Trainer, seed_everything

logger = logging.getLogger("quantlab")


def build_model(section, task):
    """The model that a config's `model` section describes, its initial weights drawn from `section.pretrain.seed`."""
    seed_everything(section.pretrain.seed)
    return instantiate(section, task=task)


def load_weights(model, path: str, key: str) -> None:
    """Load a .safetensors file into `model`, strictly. Raises RequestError in one line for anything that is wrong with it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError(f"{key}: no such file: {file}")
    try:
        # What quantlab saved has a checksum beside it; what others saved has not.
        saved_here = file.suffix == ".safetensors" and file.with_suffix(".json").is_file()
        tensors, facts = load_model(file.with_suffix("")) if saved_here else (load_file(file), {})
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{key}: {file} is not a sound safetensors file ({error})") from error
    if "bits" in facts:
        raise RequestError(f"{key}: {file} holds a model quantized to {facts['bits']}, allowed: weights in full precision, as "
                           "method=pretrain leaves them; they are quantized to the bits of this run's quantizer")
    strict_load(Pretrain.weights_of(model), tensors, f"{key}: {file}")
    model.has_weights = True


def provide_full_precision(context: RunContext) -> None:
    """Give `context.model` its full-precision weights, unless it came with some: the cache's, or trained now."""
    if not getattr(context.model, "has_weights", False):
        train_or_restore(context)
    context.model.to(context.device).eval()


def full_precision_at_hand(context: RunContext) -> bool:
    """Give `context.model` full-precision weights if that takes no training: those it came with, those of `model.weights`, or the
    cache's; whether there are any. Raises RequestError for a file that cannot be used."""
    model, path = context.model, context.config.model.weights
    if not getattr(model, "has_weights", False) and path is not None:
        load_weights(model, path, "model.weights")
    pretrain = Pretrain(None, context)
    if not getattr(model, "has_weights", False) and not pretrain.restore(pretrain.steps):
        return False
    model.to(context.device).eval()
    return True


def train_or_restore(context: RunContext) -> None:
    """The weights of `method=pretrain` with this model and task, made now if they are not in the cache.

    The training run lies in the cache, so one that is interrupted goes on when any run next asks for the same weights.
    """
    trainer = context.config.trainer.model_copy(update={"epochs": None, "max_steps": None})
    context = replace(context, config=context.config.model_copy(update={"trainer": trainer}))
    pretrain = Pretrain(None, context)
    facts = pretrain.cache_facts(pretrain.steps)
    if pretrain.restore(pretrain.steps):
        logger.info("full-precision %s: found in the cache", context.config.model.name)
        return
    if context.accelerator.num_processes > 1:
        raise RequestError(f"full-precision {context.config.model.name} is not in the cache yet, and several processes would wait for each "
                           "other to train it; type method=pretrain with this task and model first")
    with context.cache.lock(CACHE, facts):
        if pretrain.restore(pretrain.steps):
            return
        path = context.cache.folder(CACHE, facts) / "run"
        directory = RunDirectory(path)
        if directory.holds_a_run():
            directory = RunDirectory.open(path)
        else:
            directory = RunDirectory.create(path, to_plain(context.config), [])
        what = f"training {context.config.model.name} in full precision (once, cached)"
        logger.info("%s: %d steps", what, pretrain.steps)
        Trainer(trainer, directory, context.accelerator, context.config.model.pretrain.seed).fit(pretrain, what)
        pretrain.keep()
        directory.write_status("completed", exit_code=0)
