"""Full-precision training of any model: AdamW or SGD, linear warm-up then cosine to zero, exponential moving average.

The model gives its own loss (`training_loss`), so this trains denoisers and classifiers alike. The averaged weights are
what is kept, in the cache, under the hash of everything that shapes them: the task's data, the model's size, the
recipe, the precision, and the weights that training went on from, if it did. Every other method starts from there, and
a second run finds them at once.
"""

import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from quantlab.methods.base import Method, Outcome, RunContext, batches_per_epoch, run_length, seeded, shuffled_batch
from quantlab.methods.denoiser_samples import measure_full_precision
from quantlab.models.given import weights_of
from quantlab.models.model_file import tensors_of
from quantlab.run.checkpoints import Checkpoints
from quantlab.run.state import tensors_digest
from quantlab.tasks.base import to_device

logger = logging.getLogger("quantlab")

# images (at most a tenth of the set) for the validation loss of a task without a validation part; never trained on
HELD_OUT = 512
MOMENTUM = 0.9  # of SGD, as He et al. 2016
CACHE = "full_precision"


class LossOf(nn.Module):
    """The model's training loss as a forward pass, which is what data-parallel wrappers hook."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.training_loss(batch)


def source_of(model: nn.Module) -> str:
    """Where the model's weights were loaded from, and what a user should know of how that was read, in one line."""
    return "; ".join([model.weights_from, *getattr(model, "notes", ())])


def cosine_with_warmup(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate at `step`: linear from 1/warmup to 1 over `warmup` steps, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def warmed_up_average(model: nn.Module, decay: float) -> AveragedModel:
    """The average of the weights of `model`: decay min(decay, (1 + n) / (10 + n)) at its n-th update, so that it starts
    quickly.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        n = int(average.n_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    average = AveragedModel(model, multi_avg_fn=update).eval()
    average.n_averaged = average.n_averaged.cpu()  # on a GPU every update would wait for it, several times
    return average


class Pretrain(Method):
    """method=pretrain, and what other methods fetch their full-precision weights through."""

    needs_full_precision = False
    rate_key = "model.pretrain.learning_rate"

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.recipe = context.config.model.pretrain
        self.dataset = context.task.dataset()
        self.collate, self.workers = context.task.collate, context.task.workers
        self.trained_on, self.held_out = np.arange(len(self.dataset)), np.arange(0)
        if not self.is_evaluated:
            order = seeded(0).permutation(len(self.dataset))
            held_out = min(HELD_OUT, len(order) // 10)
            self.held_out, self.trained_on = order[:held_out], order[held_out:]
        self.average = None  # of the weights, once training has begun
        self.start = self.start_facts()
        self.steps = self.recipe.steps
        self.drop_last = context.config.trainer.drop_last
        self.steps_per_epoch = batches_per_epoch(len(self.trained_on), self.recipe.batch_size, self.drop_last)

    @property
    def is_evaluated(self) -> bool:
        """Whether the task has validation and test parts; then all that `dataset` holds is trained on, as other
        methods do.
        """
        return hasattr(self.context.task, "evaluate")

    def start_facts(self) -> dict:
        """What was loaded to train on from, if anything was: what lies there, not where. Asked before training
        changes it.
        """
        model = self.context.model
        if getattr(model, "weights_from", None) is None:
            return {}
        if hasattr(model, "fingerprint"):
            return {"model": model.fingerprint()}
        return {"weights": tensors_digest(weights_of(model).state_dict())}

    def cache_facts(self, total_steps: int) -> dict:
        """Everything that shapes the weights, as plain data."""
        config = self.context.config
        model = config.model.model_dump(by_alias=True)
        for name in ("weights", "path", "sampler", "guidance"):
            model.pop(name, None)
        model["pretrain"]["steps"] = total_steps
        start = {"start": self.start} if self.start else {}
        if not self.drop_last:  # weights cached before this key existed are still found
            start["drop_last"] = False
        return start | {
            "format": 3,
            "model": model,
            "task": config.task.name,
            "data": self.context.task.fingerprint(),
            "mixed_precision": config.trainer.mixed_precision,
        }

    def restore(self, total_steps: int) -> bool:
        """Load the weights that an earlier run trained just so; False if there are none."""
        facts = self.cache_facts(total_steps)
        found = self.context.cache.load(CACHE, facts)
        if found is None:
            return False
        weights_of(self.context.model).load_state_dict(found)
        logger.info(
            "full-precision %s: found in the cache, %s",
            self.context.config.model.name,
            self.context.cache.folder(CACHE, facts),
        )
        return True

    def work(self) -> int:
        """A run that has begun to train goes on with its own checkpoints: what it has put into the cache is its own
        work.
        """
        total = run_length(self.context.config.trainer, self.steps, self.steps_per_epoch)
        if not Checkpoints(self.context.directory.checkpoints).steps() and self.restore(total):
            return 0
        return super().work()

    def batch_indices(self, step: int) -> list[int]:
        batch = shuffled_batch(len(self.trained_on), self.recipe.batch_size, self.recipe.seed, step, self.drop_last)
        return self.trained_on[batch].tolist()

    def build(self, total_steps: int) -> None:
        self.total_steps = total_steps
        if self.start:
            logger.info("training goes on from %s", source_of(self.context.model))
        model = self.context.model.train()
        self.average = warmed_up_average(model, self.recipe.ema_decay)
        options = {"lr": self.recipe.learning_rate, "weight_decay": self.recipe.weight_decay}
        if self.recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(model.parameters(), momentum=MOMENTUM, **options)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), **options)
        self.model, self.optimizer = self.context.accelerator.prepare(LossOf(model), optimizer)

    def before_step(self, step: int) -> None:
        # A run that the trainer cuts short warms up for as large a share of it, so that it decays fully too.
        warmup = self.recipe.warmup_steps * self.total_steps // self.recipe.steps
        factor = cosine_with_warmup(step, self.total_steps, warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(self.context.task.prepare(batch, train=True))

    def after_backward(self) -> None:
        if self.recipe.gradient_clip is not None:
            self.context.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)

    def after_update(self) -> None:
        self.average.update_parameters(self.context.model)

    def logged(self) -> dict[str, float]:
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """What the task measures on its validation part, or else `loss` on the held-out images, of the averaged
        weights. Of fewer than ten images none is held out.
        """
        model = self.average.module if self.average is not None else self.context.model.eval()
        if self.is_evaluated:
            return self.context.task.evaluate(model, "validation", self.context.device)
        if not len(self.held_out):
            return {}
        if hasattr(model, "validation_loss"):
            return {"loss": float(model.validation_loss(self._batch(self.held_out)))}
        parts = np.array_split(self.held_out, -(-len(self.held_out) // self.recipe.batch_size))
        return {
            "loss": (
                sum(float(model.training_loss(self._batch(part))) * len(part) for part in parts) / len(self.held_out)
            )
        }

    def _batch(self, chosen: np.ndarray) -> dict[str, Tensor]:
        batch = to_device(self.collate(self.dataset.__getitems__(chosen.tolist())), self.context.device)
        return self.context.task.prepare(batch, train=False)

    def keep(self) -> nn.Module:
        """The model with the averaged weights, which are put into the cache."""
        model = self.context.model.eval()
        if self.average is not None:
            averaged = weights_of(self.average.module).state_dict()
            weights_of(model).load_state_dict(averaged)
            if self.context.accelerator.is_main_process:
                self.context.cache.save(CACHE, self.cache_facts(self.total_steps), averaged)
        return model

    def measure(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics of `context.model` and their protocol: the task's on its test part, or else the loss on the held-out
        images, and of a denoiser how near its samples are to the task's images.
        """
        context = self.context
        if self.is_evaluated:
            return (
                context.task.evaluate(context.model, "test", context.device, context.progress),
                context.task.protocol(),
            )
        metrics, protocol = self.validate(), {"held_out_images": len(self.held_out)}
        if context.config.model.kind == "denoiser" and context.accelerator.is_main_process:
            of_samples, how = measure_full_precision(context)
            metrics, protocol = metrics | of_samples, protocol | how
        return metrics, protocol

    def finish(self) -> Outcome:
        context, model = self.context, self.keep()
        metrics, protocol = self.measure()
        if context.accelerator.is_main_process:
            context.task.draw({"full precision": model}, context.directory.samples, context.device)
        return Outcome(
            metrics=metrics,
            baseline=context.task.baseline(context.device),
            protocol={"weights": "exponential moving average"} | protocol,
            model=tensors_of(weights_of(model)),
            network=weights_of(model),
        )

    def state_dict(self) -> dict:
        return {
            "model": weights_of(self.context.model).state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        weights_of(self.context.model).load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
