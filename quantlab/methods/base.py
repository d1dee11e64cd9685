"""What a method is: the hooks of the one trainer loop.

The trainer asks, in this order: `build`, then `load_state_dict` if there is a checkpoint, then for every step
`before_step`, `gradients`, `after_backward`, `update`, `after_update`; `validate` at every checkpoint; at the end the
runner asks `finish`. Most methods implement two or three of them. A method never loops over steps.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantlab.models.given import given_model
from quantlab.run.directory import RunDirectory
from quantlab.run.processes import Processes


@dataclass
class RunContext:
    """What the runner hands a method: the four parts of the run and the few services it may use."""

    config: Any  # the validated RunConfig
    task: Any
    model: torch.nn.Module  # full precision, on the device
    accelerator: Any  # accelerate.Accelerator: device, precision, processes
    cache: Any  # quantlab.run.cache.Cache: tensors that runs share
    directory: RunDirectory  # the run's own
    feature_network: Callable[[], Any]  # FID's feature network, trained or fetched when first asked for; None: no FID
    # trained(model section): that model in full precision, by its own recipe, cached
    trained: Callable[[Any], torch.nn.Module]
    full_precision_at_hand: Callable[[], bool]  # gives `model` weights if that takes no training; whether there are any
    provide_full_precision: Callable[[], None]  # gives `model` its weights: given, cached, or trained now
    fit: Callable[["Method"], int]  # fit(method): trained in the one loop; the steps that the run has made in all
    progress: Callable[..., Iterable]  # progress(iterable, "what"): a bar with an ETA

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def processes(self) -> Processes:
        return Processes(self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device)


@dataclass
class Outcome:
    """What a finished method leaves: numbers for results.json, and the tensors of the model it made."""

    metrics: dict[str, float]
    baseline: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)  # not results: what helps to judge the run
    cost: dict[str, Any] = field(default_factory=dict)
    # `step` and `metrics` of the best validated state, if not the last
    best: dict[str, Any] = field(default_factory=dict)
    best_model: dict[str, Tensor] | None = None
    model: dict[str, Tensor] | None = None
    network: torch.nn.Module | None = None  # whose tensors `model` holds; None: the file does not say what they are of
    model_facts: dict[str, Any] = field(default_factory=dict)
    # sentences without which the results would be misread; in every table
    notes: list[str] = field(default_factory=list)
    phases: dict[int, str] = field(default_factory=dict)  # what begins after which step, for pictures


class Verb:
    """What a run does, on a model that is there or on a finished run: `sample`, `evaluate`. Methods also train.

    The runner asks `work`, then `finish`; before there is a run `check_files` and `open_model`.
    """

    described: dict[str, dict] | None = None  # what layers.json holds, where something is quantized

    def __init__(self, section, context: RunContext):
        self.section, self.context = section, context

    @classmethod
    def check_files(cls, section, config) -> None:
        """Looks at the files that the method's section names, before any data is read. Raises RequestError for one
        that will not do.
        """

    @classmethod
    def open_model(cls, config, task) -> torch.nn.Module:
        """What becomes `context.model`, on the CPU. Raises RequestError for files of weights that will not do."""
        return given_model(config.model, task, "model")

    def work(self) -> int:
        """All that comes before `finish`; the steps of the loop that it took."""
        if self.described is not None and self.context.accelerator.is_main_process:
            self.context.directory.write_layers(self.described)
        return 0

    def finish(self) -> Outcome:
        """Evaluate, draw, and hand over what was made."""
        raise NotImplementedError  # every method ends with something


class Method(Verb):
    """Base of all that is trained in the loop. A subclass sets `steps`, `dataset` and, where an epoch means something,
    `steps_per_epoch`. `described` is there after `build`.
    """

    needs_full_precision = True  # full-precision weights come into context.model first

    steps: int  # the method's own length; trainer.max_steps and trainer.epochs may shorten it
    steps_per_epoch: int | None = None
    dataset: Any = None  # map-style; `collate` makes a batch of its items
    workers: int = 0  # processes that load it, unless trainer.num_workers says how many
    rate_key = "method.learning_rate"  # what to lower where it diverges

    def work(self) -> int:
        if self.needs_full_precision:
            self.context.provide_full_precision()
        return self.context.fit(self)

    # data ----------------------------------------------------------------------------------------------------------
    def batch_indices(self, step: int) -> list:
        """Items of the batch of `step`; a function of the step alone, so that a resumed run needs no memory of it."""
        raise NotImplementedError  # every method that is trained says which data it draws

    def collate(self, items):
        return items

    def cost(self, step: int) -> float:
        """The cost of `step` relative to the others, in any unit, for the remaining time. Called after `build`."""
        return 1.0

    # hooks ---------------------------------------------------------------------------------------------------------
    def build(self, total_steps: int) -> None:
        """Wrap the model with quantizers, make optimizers; `total_steps` is how long the loop will run."""

    def before_step(self, step: int) -> None:
        """Schedules, change of what is trained."""

    def gradients(self, batch) -> dict[str, Tensor]:
        """Fill .grad for one batch; returns scalars to log, `loss` among them. Default: `loss`, then backward."""
        with self.context.accelerator.autocast():
            loss = self.loss(batch)
        self.context.accelerator.backward(loss)
        return {"loss": loss.detach()}

    def loss(self, batch) -> Tensor:
        raise NotImplementedError  # only the default `gradients` asks for it

    def after_backward(self) -> None:
        """Gradients are there, parameters are still the old ones."""

    def update(self) -> None:
        """Move the parameters. Default: `self.optimizer`."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def after_update(self) -> None:
        """Parameters are the new ones."""

    def logged(self) -> dict[str, float]:
        """Values to log in addition to those of `gradients`; called only when a line is written."""
        return {}

    def validate(self) -> dict[str, float]:
        """Asked at every checkpoint; what it measures decides, by `checkpoint_score`, which checkpoint is best."""
        return {}

    def checkpoint_score(self, validated: dict[str, float]) -> list[float]:
        """Of what `validate` measured, what decides which checkpoint is best: lower is better, later entries break
        ties.
        """
        return [validated["loss"]] if "loss" in validated else []

    # memory --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything the algorithm remembers. (Random numbers need no memory: every step seeds its own.)"""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back, after `build`."""


def run_length(section, method_steps: int, steps_per_epoch: int | None) -> int:
    """Steps the loop will make: the method's own length, or `max_steps` or `epochs` of the trainer section, if
    smaller.
    """
    caps = [method_steps, section.max_steps]
    if section.epochs is not None and steps_per_epoch is not None:
        caps.append(section.epochs * steps_per_epoch)
    return min(cap for cap in caps if cap is not None)


def seeded(*seed: int) -> np.random.Generator:
    """A random generator that depends only on the integers given, well mixed (numpy's SeedSequence)."""
    return np.random.default_rng(seed)


def batches_per_epoch(size: int, batch_size: int, drop_last: bool) -> int:
    """Steps that an epoch of `size` items makes. drop_last: without its last, smaller batch, unless that is all
    there is.
    """
    return max(size // batch_size, 1) if drop_last else -(-size // batch_size)


def shuffled_batch(size: int, batch_size: int, seed: int, step: int, drop_last: bool) -> list[int]:
    """Indices of batch `step` of an endless walk through `size` items, shuffled anew each epoch by (seed, epoch); an
    epoch is `batches_per_epoch` long.
    """
    epoch, position = divmod(step, batches_per_epoch(size, batch_size, drop_last))
    order = seeded(seed, epoch).permutation(size)
    return order[position * batch_size : (position + 1) * batch_size].tolist()
