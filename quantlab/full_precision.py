"""Full-precision weights for a model: those it came with, or trained once and cached."""

import logging
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from quantlab.config import to_plain
from quantlab.errors import CorruptFileError, RequestError
from quantlab.methods.base import RunContext, run_length
from quantlab.methods.evaluation_networks import network
from quantlab.methods.pretrain import CACHE, Pretrain, source_of
from quantlab.models.given import given_model, load_weights, say_of_weights
from quantlab.run.checkpoints import Checkpoints
from quantlab.run.directory import RunDirectory
from quantlab.trainer import Trainer

logger = logging.getLogger("quantlab")


def provide_full_precision(context: RunContext) -> None:
    """Give `context.model` its full-precision weights, unless it came with some: the cache's, or trained now."""
    if getattr(context.model, "has_weights", False):
        logger.info("full-precision %s: %s", context.config.model.name, source_of(context.model))
    else:
        train_or_restore(context)
    context.model.to(context.device).eval()


def full_precision_at_hand(context: RunContext) -> bool:
    """Give `context.model` full-precision weights if that takes no training: those it came with, those of
    `model.weights`, or the cache's; whether there are any. Raises RequestError for a file that cannot be used.
    """
    model, path = context.model, context.config.model.weights
    if path is not None and not getattr(model, "has_weights", False):
        load_weights(model, path, "model.weights")
    if not getattr(model, "has_weights", False):
        pretrain = Pretrain(None, context)
        if not pretrain.restore(pretrain.steps):
            return False
    model.to(context.device).eval()
    return True


def train_or_restore(context: RunContext) -> None:
    """The weights of `method=pretrain` with this model and task, made now if they are not in the cache.

    The training run lies in the cache, so an interrupted one resumes when any run next needs the same weights.
    `trainer.max_steps` limits it, as every part of a run; `trainer.epochs` only limits the method.
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
        directory = _opened(context.cache.folder(CACHE, facts) / "run", to_plain(context.config))
        what = f"training {name} in full precision (once, cached)"
        logger.info("%s: %d steps", what, total)
        with closing(directory):
            Trainer(trainer, directory, context.accelerator, context.config.model.pretrain.seed).fit(pretrain, what)
            directory.write_status("completed", exit_code=0)
        pretrain.keep()  # last: what a kill leaves before it is removed by whoever needs the weights next


def _opened(path: Path, config: dict[str, Any]) -> RunDirectory:
    """The training run in the cache, gone on with where its checkpoints serve. Nobody asked for it by name, so that one
    that does not serve is made anew.
    """
    if RunDirectory(path).holds_a_run():
        directory = RunDirectory.open(path)
        try:
            Checkpoints.of(directory).load_latest()
            return directory
        except (CorruptFileError, RequestError) as error:
            logger.warning("%s; it is trained from the start", str(error).partition("; start")[0])
            directory.close()
    shutil.rmtree(path, ignore_errors=True)
    return RunDirectory.create(path, config, [])


def feature_network(context: RunContext):
    """FID's feature network as the task's `evaluation.features` says: the task's classifier, trained once, one with
    published weights, or None, also where those are absent.
    """
    evaluation = context.task.evaluation
    if evaluation.features == "task_classifier":
        return trained_model(context, context.config.task.feature_network, "task.feature_network")
    return None if evaluation.features == "none" else network(evaluation.features, evaluation)


def trained_model(context: RunContext, section, key: str = "model") -> torch.nn.Module:
    """The model of another `model` section, which the config has under `key`, on the run's task, in full precision, in
    evaluation mode, on the device.
    """
    own = replace(
        context,
        model=given_model(section, context.task, key).to(context.device),
        config=context.config.model_copy(update={"model": section}),
    )
    say_of_weights(own.model)
    provide_full_precision(own)
    return own.model
