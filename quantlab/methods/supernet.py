"""Dynamic supernet training for architecture search, then ranking and search.

"Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", Jeon et al., CVPR 2025 (arXiv 2503.10740):

- complexity-aware learning rate (CaLR): lr = lr0 (1 - t/T)^gamma(a), gamma falling with the active subnet's complexity,
  so that large subnets, which converge slowly, keep their rate for longer;
- momentum separation (MS): one momentum buffer per cluster of subnets over shared weights; the cluster is the operation
  at one decision.

Both for SPOS, FairNAS and few-shot NAS. FairNAS takes one optimizer step for several subnets, so there CaLR weights
their losses at a constant learning rate (the released code).
"""

import logging
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from quantlab.config import to_plain
from quantlab.config.checks import space_of
from quantlab.errors import RequestError
from quantlab.methods.base import Method, Outcome, RunContext, batches_per_epoch, run_length, seeded, shuffled_batch
from quantlab.methods.stand_alone import different_subnets, train_alone
from quantlab.methods.supernet_images import Batches, scoring_batches
from quantlab.optim import CaLR, MomentumSeparation
from quantlab.optim.calr import decay_exponent, decay_factor
from quantlab.report import supernet as pictures
from quantlab.report.commands import training_command
from quantlab.search.evaluation import accuracies, recalibrated_accuracies
from quantlab.search.ranking import Ranking, rank, save_ranking
from quantlab.search.samplers import build_sampler
from quantlab.search.spaces import MEASURES, Subnet
from quantlab.search.strategies import (
    ComplexityLimit,
    evolutionary_search,
    exhaustive,
    random_search,
    require_exhaustible,
)
from quantlab.search.truth import TruthTable

logger = logging.getLogger("quantlab")

TRAINING, WATCHING, WEIGHING, SAMPLING, SEARCHING = range(1, 6)  # what a generator is for, beside the seed
LEVELS = {"low": 0.1, "middle": 0.5, "high": 0.9}  # quantiles of complexity whose loss is watched ...
WATCHED = 4  # ... each on so many subnets
WEIGHED = 4096  # subnets for the mean rate of decay=uniform


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
        """Also looks for the names that the table shall have: images take half a minute to decode."""
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
        """A decision with the most operations, by the seed; for few-shot NAS another than its own."""
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
        # step that each part begins with, and the end
        self.begins = [part * total_steps // parts for part in range(parts + 1)]
        self.part, self.finished = 0, []  # supernets of few-shot NAS that are trained
        self.model = self.context.model.train()
        self.watched = self._watched_subnets()
        self.mean_exponents = self._mean_exponents()
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
        self.part_steps = self.begins[self.part + 1] - self.begins[self.part]
        self.schedule = CaLR(self.separated, self.part_steps, *self.bounds, section.gamma_max)
        self.optimizer = self.context.accelerator.prepare(self.separated)

    def _begin_part(self, part: int) -> None:
        """Few-shot NAS: keep the supernet that is trained, and begin the next one from weights of its own."""
        self.finished.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        self.part = part
        with torch.random.fork_rng():
            torch.manual_seed(int(seeded(self.seed, TRAINING, part).integers(2**62)))
            for module in self.model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            if hasattr(self.model, "initialize"):
                self.model.initialize()
        self._make_optimizer()

    def before_step(self, step: int) -> None:
        if step == self.begins[self.part + 1]:
            self._begin_part(self.part + 1)
        self.t = step - self.begins[self.part]
        rng = seeded(self.seed, TRAINING, step)
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
        exponents = [
            decay_exponent(self.complexity(subnet), *self.bounds, self.section.gamma_max) for subnet in self.subnets
        ]
        return [decay_factor(self.t, self.part_steps, exponent) for exponent in exponents]

    def _set_rate(self) -> None:
        section, progress = self.section, self.t / self.part_steps
        if section.calr and len(self.subnets) == 1:
            self.schedule.set(self.t, self.complexity(self.subnets[0]))
            return
        factor = 1.0  # FairNAS with CaLR: its losses are weighted instead
        if not section.calr and section.decay == "cosine":
            factor = (1 + math.cos(math.pi * progress)) / 2
        elif not section.calr and section.decay == "uniform":
            factor = float(np.mean((1 - progress) ** self.mean_exponents[self.part]))
        for group in self.separated.param_groups:
            group["lr"] = section.learning_rate * factor

    def _mean_exponents(self) -> list[np.ndarray]:
        """decay=uniform: gamma of subnets drawn as each supernet draws them; the mean of their factors is
        everyone's.
        """
        if self.section.calr or self.section.decay != "uniform":
            return []
        means = []
        for part in range(self.sampler.parts):
            rng = seeded(self.seed, WEIGHING)
            drawn = [self.complexity(self.sampler.sample(rng, part)) for _ in range(WEIGHED)]
            means.append(
                np.array([decay_exponent(complexity, *self.bounds, self.section.gamma_max) for complexity in drawn])
            )
        return means

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
        """Cosine between the momentum that is about to move the weights and the gradient that has just come."""
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
    def _watched_subnets(self) -> dict[str, list[Subnet]]:
        """A few subnets of low, middle and high complexity, none of whose operations is idle."""
        rng = seeded(self.seed, WATCHING)
        drawn = sorted({self.space.canonical(self.space.sample(rng)) for _ in range(500)}, key=self.complexity)
        whole = [subnet for subnet in drawn if self.complexity(subnet) > self.bounds[0]] or drawn
        places = {
            level: min(int(quantile * len(whole)), max(len(whole) - WATCHED, 0)) for level, quantile in LEVELS.items()
        }
        return {level: whole[place : place + WATCHED] for level, place in places.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss of the watched subnets on a batch of validation images, and of each level of complexity."""
        batch = self.watched_on[0]
        self.model.eval()
        losses = {}
        for level, subnets in self.watched.items():
            logits = self.model.logits_of(
                batch["image"], [self.sampler.within(subnet, self.part) for subnet in subnets]
            )
            losses[f"loss_{level}"] = float(
                nn.functional.cross_entropy(logits.flatten(0, 1), batch["label"].repeat(len(subnets)))
            )
        self.model.train()
        return {"loss": sum(losses.values()) / len(losses)} | losses

    def _images(self, part: str, count: int | None = None) -> Batches:
        return scoring_batches(self.context, part, self.section.ranking.batch_size, self.section.ranking.batches, count)

    @cached_property
    def watched_on(self) -> Batches:
        return self._images("validation", self.section.ranking.batch_size)

    @cached_property
    def ranked_on(self) -> Batches:
        return self._images("validation", self.section.ranking.images)

    @cached_property
    def calibrated_on(self) -> Batches:
        return self._images("train", self.section.ranking.calibration_images)

    # ranking and search --------------------------------------------------------------------------------------------
    def score(self, subnets: Sequence[Subnet], what: str, images: Batches) -> list[float]:
        """Accuracy on batches of images, percent, of each subnet with the supernet's weights."""
        context, ranking = self.context, self.section.ranking
        scores = np.zeros(len(subnets))
        for part in range(self.sampler.parts):
            places = [place for place, subnet in enumerate(subnets) if self.sampler.part_of(subnet) == part]
            if not places:
                continue
            if self.sampler.parts > 1:
                self.model.load_state_dict(self.finished[part])
            chosen = [subnets[place] for place in places]
            if ranking.batch_norm == "recalibrated":
                found = recalibrated_accuracies(self.model, chosen, images, self.calibrated_on, context.progress, what)
            else:
                unfinished = context.directory.path / f"{what}_{part}-unfinished"
                partial = unfinished if context.accelerator.is_main_process else None
                found = accuracies(self.model, chosen, images, context.progress, partial, what)
            scores[places] = found
        return scores.tolist()

    def finish(self) -> Outcome:
        section, context = self.section, self.context
        self.finished.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        truth, ranked = self._truth()
        ranking = self._ranking(truth, ranked) if len(ranked) else None
        found, score = self._search()
        metrics = {} if ranking is None else ranking.metrics
        metrics["top1"] = self.score([found], "test", self._images("test"))[0]
        if self.space.index(found) in set(truth.indices.tolist()):
            for name in ranking.truth:
                alone = "top1_alone" if name == ranking.main else f"top1_alone_{name}"
                metrics[alone] = float(truth.lookup(name, [self.space.index(found)])[0])
        encoding = self.space.encode(found)
        logger.info(
            "found %s: %.2f %% on validation and %.2f %% on test images with the supernet's weights; train it alone"
            " with: %s",
            encoding,
            score,
            metrics["top1"],
            training_command(to_plain(context.config), encoding),
        )
        if context.accelerator.is_main_process:
            self._draw(ranking, found)
        protocol = {
            "ranked_subnets": len(ranked),
            "ranking_images": self.ranked_on.images,
            "batch_norm": section.ranking.batch_norm,
            "search": section.search.strategy,
            "top1": "of the subnet found, with the supernet's weights",
        } | context.task.protocol()
        if ranking is not None:
            protocol["truth"] = "stand_alone_training" if self.truth is None else ranking.main
        if section.ranking.batches == "random":
            protocol["ranking_batches"] = "random"
        diagnostics = {"found": encoding, "found_supernet_accuracy": score} | {
            f"found_{measure}": self.space.complexity(found, measure) for measure in MEASURES
        }
        if section.momentum_separation:
            diagnostics["split"] = self.space.decisions[self.split]
        model = {
            f"supernet{part}.{name}": tensor
            for part, state in enumerate(self.finished)
            for name, tensor in state.items()
        }
        return Outcome(
            metrics=metrics,
            baseline={} if ranking is None else {"complexity_alone": ranking.by_complexity},
            protocol=protocol,
            diagnostics=diagnostics,
            model=model,
            model_facts={"weights": "last step", "sampler": section.sampler},
        )

    def _ranking(self, truth: TruthTable, ranked: np.ndarray) -> Ranking:
        """Scores the subnets of those numbers; on the main process ranking.csv holds them."""
        subnets = [self.space.subnet(int(index)) for index in ranked]
        scores, complexities = (
            self.score(subnets, "ranking", self.ranked_on),
            [self.complexity(subnet) for subnet in subnets],
        )
        ranking = rank(truth, ranked, scores, complexities, self.section.ranking.column)
        if self.context.accelerator.is_main_process:
            columns = {name: values.tolist() for name, values in ranking.truth.items()}
            save_ranking(
                self.context.directory.ranking_path,
                [self.space.encode(subnet) for subnet in subnets],
                scores,
                columns,
                self.section.complexity,
                complexities,
            )
        return ranking

    def _truth(self) -> tuple[TruthTable, np.ndarray]:
        """Accuracies of networks trained alone, and the numbers of the subnets to rank: none, where none shall be
        trained.
        """
        ranking = self.section.ranking
        if self.truth is not None:
            ranked = self.truth.subset(ranking.subset)
            if ranking.subnets is not None and ranking.subnets < len(ranked):
                ranked = np.sort(seeded(self.seed, SAMPLING).choice(ranked, ranking.subnets, replace=False))
            return self.truth, ranked
        # Of a generator without the seed: all seeds are compared on the same subnets
        if not ranking.stand_alone.subnets:
            return TruthTable(np.arange(0), {}), np.arange(0)
        chosen = different_subnets(self.space, ranking.subnets or ranking.stand_alone.subnets, seeded(SAMPLING))
        table = train_alone(self.context, self.space, chosen, ranking.stand_alone.steps)
        return table, table.indices

    def _search(self) -> tuple[Subnet, float]:
        """The best subnet by the supernet's accuracy, and that accuracy (percent)."""
        search, rng = self.section.search, seeded(self.seed, SEARCHING)

        def score(subnets: list[Subnet]) -> list[float]:
            return self.score(subnets, "search", self.ranked_on)

        if search.strategy == "exhaustive":
            scored = exhaustive(self.space, score, self.limit)
        elif search.strategy == "random":
            scored = random_search(self.space, score, search.population * search.generations, rng, self.limit)
        else:
            scored = evolutionary_search(
                self.space,
                score,
                rng,
                self.limit,
                population=search.population,
                generations=search.generations,
                parents=search.parents,
                crossover=search.crossover,
                mutation=search.mutation,
                mutation_probability=search.mutation_probability,
            )
        return scored[0]

    def _draw(self, ranking: Ranking | None, found: Subnet) -> None:
        directory = self.context.directory
        folder, rows = directory.figures, directory.metrics.read()
        if ranking is not None:
            pictures.ranking_scatter(
                ranking.scores,
                ranking.truth[ranking.main].tolist(),
                ranking.complexities,
                ranking.main,
                ranking.metrics["kendall_tau"],
                folder / "ranking.png",
                parameters_tau=ranking.by_complexity["kendall_tau"],
                measure=self.section.complexity,
            )
        pictures.fairness_curves(rows, folder / "fairness.png")
        pictures.noise_curve(rows, folder / "noise.png")
        operations, title = (
            [self.space.operations[operation] for operation in found],
            f"found: {self.space.encode(found)}",
        )
        if hasattr(self.space, "edges"):
            pictures.cell_graph(operations, list(self.space.edges), title, folder / "found_subnet.png")
        else:
            pictures.chain_figure(operations, list(self.space.decisions), title, folder / "found_subnet.png")

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
        self._make_optimizer()  # a part's schedule is of its own steps
        self.separated.load_state_dict(state["optimizer"])
