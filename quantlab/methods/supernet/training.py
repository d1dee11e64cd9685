"""Training of a supernet, or with few-shot NAS of several in turn: which subnets a step trains, with which learning
rate and momentum.
"""

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.methods.base import Method, Outcome, RunContext, batches_per_epoch, run_length, seeded, shuffled_batch
from quantlab.methods.supernet import streams
from quantlab.methods.supernet.evaluation import evaluate
from quantlab.methods.supernet.images import scoring_batches
from quantlab.methods.supernet.trained import TrainedSupernet
from quantlab.models.searchable import space_of
from quantlab.optim import CaLR, MomentumSeparation
from quantlab.optim.calr import decay_exponent
from quantlab.search.samplers import build_sampler
from quantlab.search.spaces import Subnet
from quantlab.search.strategies import ComplexityLimit, require_exhaustible
from quantlab.search.truth import TruthTable

LEVELS = {"low": 0.1, "middle": 0.5, "high": 0.9}  # quantiles of complexity whose validation loss is logged ...
SUBNETS_PER_LEVEL = 4  # ... as a mean over so many subnets
SUBNETS_FOR_MEAN_RATE = 4096  # drawn for decay=uniform


class Supernet(Method):
    """method=supernet."""

    needs_full_precision = False

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.space, self.seed = context.model.space, context.config.seed
        self.dataset = context.task.dataset()
        self.collate, self.workers = context.task.collate, context.task.workers
        self.sampler = build_sampler(
            section.sampler, self.space, self._decision("fsnas_split", section.fsnas_split), section.flops_bins
        )
        self.drop_last = context.config.trainer.drop_last
        self.steps_per_epoch = batches_per_epoch(len(self.dataset), section.batch_size, self.drop_last)
        self.steps = section.epochs * self.steps_per_epoch * self.sampler.parts
        steps, parts = run_length(context.config.trainer, self.steps, self.steps_per_epoch), self.sampler.parts
        if steps < parts:
            raise RequestError(
                f"trainer.max_steps, trainer.epochs: got {steps} steps, allowed with method.sampler={section.sampler}:"
                f" from {parts}, one for each of its supernets; type trainer.max_steps={parts}"
            )
        self.split = self._decision("split", section.split) if section.split is not None else self._drawn_split()
        self.clusters = self.space.choices(self.split) if section.momentum_separation else (0,)
        self.bounds = self.space.complexity_range(section.complexity)
        self.truth = (
            None
            if section.ranking.truth is None
            else TruthTable.load(section.ranking.truth, self.space, "method.ranking.truth")
        )
        self.limit = None
        if section.search.complexity_limit is not None:
            self.limit = ComplexityLimit(
                self.space, section.search.complexity or section.complexity, section.search.complexity_limit
            )
            self.limit.check()
        if section.search.strategy == "exhaustive":
            require_exhaustible(self.space)

    @classmethod
    def check_files(cls, section, config) -> None:
        """Also looks up the requested names in the table, before images are decoded, which takes half a minute."""
        if section.ranking.truth is not None:
            truth = TruthTable.load(section.ranking.truth, space_of(config.model), "method.ranking.truth")
            truth.subset(section.ranking.subset)
            truth.lookup(section.ranking.column or next(iter(truth.accuracies)), [])

    def _decision(self, key: str, decision: int) -> int:
        count = len(self.space.decisions)
        if decision >= count:
            raise RequestError(
                f"method.{key}: got {decision}, allowed in {self.space.name}: 0 to {count - 1}; "
                f"type method.{key}={count - 1}"
            )
        return decision

    def _drawn_split(self) -> int:
        """A decision with the most operations, drawn by the seed; with few-shot NAS not the one that it splits on."""
        most = max(len(self.space.choices(decision)) for decision in range(len(self.space.decisions)))
        allowed = [
            decision
            for decision in range(len(self.space.decisions))
            if len(self.space.choices(decision)) == most
            and not (self.sampler.parts > 1 and decision == self.section.fsnas_split)
        ]
        return int(seeded(self.seed).choice(allowed))

    # training ------------------------------------------------------------------------------------------------------
    def batch_indices(self, step: int) -> list[int]:
        return shuffled_batch(len(self.dataset), self.section.batch_size, self.seed, step, self.drop_last)

    def build(self, total_steps: int) -> None:
        self.total_steps = total_steps
        parts = self.sampler.parts
        self.part_starts = [part * total_steps // parts for part in range(parts + 1)]  # first step of each; the end
        self.part, self.finished = 0, []  # the supernet in training; the weights of those before it
        self.model = self.context.model.train()
        self.validated_subnets = self._validated_subnets()
        self.exponents = self._drawn_exponents()
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        section = self.section
        sgd = torch.optim.SGD(
            self.model.parameters(),
            section.learning_rate,
            section.momentum,
            nesterov=section.momentum > 0,
            weight_decay=section.weight_decay,
        )
        self.separated = MomentumSeparation(sgd, len(self.clusters), section.inactive_parameters)
        self.part_steps = self.part_starts[self.part + 1] - self.part_starts[self.part]
        self.schedule = CaLR(self.separated, self.part_steps, *self.bounds, section.gamma_max)
        self.optimizer = self.context.accelerator.prepare(self.separated)

    def _start_part(self, part: int) -> None:
        """Few-shot NAS: keep the weights of the trained supernet, and initialize the next one."""
        self.finished.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        self.part = part
        with torch.random.fork_rng():
            torch.manual_seed(int(seeded(self.seed, streams.TRAINING, part).integers(2**62)))
            for module in self.model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            if hasattr(self.model, "initialize"):
                self.model.initialize()
        self._make_optimizer()

    def before_step(self, step: int) -> None:
        if step == self.part_starts[self.part + 1]:
            self._start_part(self.part + 1)
        self.t = step - self.part_starts[self.part]
        rng = seeded(self.seed, streams.TRAINING, step)
        shared = self.split if self.section.momentum_separation else None
        self.subnets = self.sampler.draw(rng, self.part, shared)
        self.weights = self._loss_weights()
        self.separated.select(self.clusters.index(self.subnets[0][self.split]) if shared is not None else 0)
        self._set_rate()
        self.is_logged = (step + 1) % self.context.config.trainer.log_every == 0 or step + 1 == self.total_steps

    def complexity(self, subnet: Subnet) -> float:
        return self.space.complexity(subnet, self.section.complexity)

    def _loss_weights(self) -> list[float]:
        if not self.section.calr or len(self.subnets) == 1:
            return [1.0] * len(self.subnets)
        return [self.schedule.factor(self.t, self.complexity(subnet)) for subnet in self.subnets]

    def _set_rate(self) -> None:
        section, progress = self.section, self.t / self.part_steps
        if section.calr and len(self.subnets) == 1:
            self.schedule.set(self.t, self.complexity(self.subnets[0]))
            return
        factor = 1.0  # FairNAS with CaLR: its losses are weighted instead
        if not section.calr and section.decay == "cosine":
            factor = (1 + math.cos(math.pi * progress)) / 2
        elif not section.calr and section.decay == "uniform":
            factor = float(np.mean((1 - progress) ** self.exponents[self.part]))
        for group in self.separated.param_groups:
            group["lr"] = section.learning_rate * factor

    def _drawn_exponents(self) -> list[np.ndarray]:
        """decay=uniform: for each supernet, gamma of subnets drawn as in its training; every subnet gets the mean of
        their factors.
        """
        if self.section.calr or self.section.decay != "uniform":
            return []
        exponents = []
        for part in range(self.sampler.parts):
            rng = seeded(self.seed, streams.MEAN_RATE)
            drawn = [self.complexity(self.sampler.sample(rng, part)) for _ in range(SUBNETS_FOR_MEAN_RATE)]
            exponents.append(
                np.array([decay_exponent(complexity, *self.bounds, self.section.gamma_max) for complexity in drawn])
            )
        return exponents

    def gradients(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        accelerator = self.context.accelerator
        batch = self.context.task.prepare(batch, train=True)
        losses = []
        for subnet, weight in zip(self.subnets, self.weights):
            self.model.activate(subnet)
            with accelerator.autocast():
                loss = self.model.training_loss(batch)
            accelerator.backward(loss if weight == 1 else loss * weight)
            losses.append(loss.detach())
        return {"loss": torch.stack(losses).mean()}

    def after_backward(self) -> None:
        accelerator = self.context.accelerator
        if accelerator.num_processes > 1:  # all drew the same subnets, so the same parameters have gradients
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, "mean")
        if self.section.gradient_clip is not None:
            accelerator.unscale_gradients(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.section.gradient_clip)
        self.cosine = self._momentum_cosine() if self.is_logged else None

    def _momentum_cosine(self) -> float | None:
        """Cosine between the momentum of the steps so far and the new gradient."""
        pairs = [
            (momentum.flatten(), parameter.grad.flatten())
            for parameter in self.model.parameters()
            if parameter.grad is not None and (momentum := self.separated.momentum(parameter)) is not None
        ]
        if not pairs:
            return None
        momentum, gradient = (torch.cat(side) for side in zip(*pairs))
        return float(torch.cosine_similarity(momentum, gradient, dim=0))

    def logged(self) -> dict[str, float]:
        values = {
            "learning_rate": self.separated.param_groups[0]["lr"],
            "complexity": sum(map(self.complexity, self.subnets)) / len(self.subnets),
        }
        return values if self.cosine is None else values | {"momentum_cosine": self.cosine}

    # validation ----------------------------------------------------------------------------------------------------
    def _validated_subnets(self) -> dict[str, list[Subnet]]:
        """A few subnets each of low, middle and high complexity, without those of the least complexity if there are
        others.
        """
        rng = seeded(self.seed, streams.VALIDATION)
        drawn = sorted({self.space.canonical(self.space.sample(rng)) for _ in range(500)}, key=self.complexity)
        larger = [subnet for subnet in drawn if self.complexity(subnet) > self.bounds[0]] or drawn
        last = max(len(larger) - SUBNETS_PER_LEVEL, 0)
        starts = {level: min(int(quantile * len(larger)), last) for level, quantile in LEVELS.items()}
        return {level: larger[start : start + SUBNETS_PER_LEVEL] for level, start in starts.items()}

    @cached_property
    def _validation_batch(self) -> dict[str, Tensor]:
        ranking = self.section.ranking
        return scoring_batches(self.context, "validation", ranking.batch_size, ranking.batches, ranking.batch_size)[0]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss of subnets of each level of complexity on one batch of validation images, and the mean of these."""
        batch = self._validation_batch
        self.model.eval()
        losses = {}
        for level, subnets in self.validated_subnets.items():
            logits = self.model.logits_of(
                batch["image"], [self.sampler.within(subnet, self.part) for subnet in subnets]
            )
            losses[f"loss_{level}"] = float(
                nn.functional.cross_entropy(logits.flatten(0, 1), batch["label"].repeat(len(subnets)))
            )
        self.model.train()
        return {"loss": sum(losses.values()) / len(losses)} | losses

    def finish(self) -> Outcome:
        self.finished.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        trained = TrainedSupernet(self.model, self.sampler, self.finished, self.section.ranking, self.context)
        outcome = evaluate(trained, self.section, self.context, self.truth, self.limit)
        if self.section.momentum_separation:
            outcome.diagnostics["split"] = self.space.decisions[self.split]
        return outcome

    # memory --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.separated.state_dict(),
            "part": self.part,
            "finished": self.finished,
        }

    def load_state_dict(self, state: dict) -> None:
        self.part, self.finished = state["part"], state["finished"]
        self.model.load_state_dict(state["model"])
        self._make_optimizer()  # each part has its own schedule
        self.separated.load_state_dict(state["optimizer"])
