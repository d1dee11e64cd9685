"""Quantization-aware training whose weight transitions are scheduled, and the ordinary kind that it is compared with.

"Scheduling Weight Transitions for Quantization-Aware Training", Lee et al., ICCV 2025 (arXiv 2404.19248). Parameter
groups and their rates follow the released code: latent weights of quantized layers (scheduled), other weights and
biases, quantizer scales (a rate of their own, no momentum, no decay), normalization parameters (no momentum, no decay).
All follow one decay.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.methods.base import RunContext
from quantlab.methods.qat_start import Start
from quantlab.methods.quantized_gradients import spread_evenly
from quantlab.methods.quantized_training import QuantizedTraining
from quantlab.methods.teacher import Teacher
from quantlab.optim import SGDT, AdagradT, AdamaxT, AdamT, AdamWT, NAdamT, RMSpropT
from quantlab.optim.oscillation import IterativeFreezing, TransitionTracker, dampening_loss
from quantlab.quantizers.insert import standardized_layers
from quantlab.report import transitions

OPTIMIZERS = {
    "transition_rate": {
        "sgd": SGDT,
        "adam": AdamT,
        "adamw": AdamWT,
        "nadam": NAdamT,
        "adamax": AdamaxT,
        "rmsprop": RMSpropT,
        "adagrad": AdagradT,
    },
    "learning_rate": {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "adamax": torch.optim.Adamax,
        "rmsprop": torch.optim.RMSprop,
        "adagrad": torch.optim.Adagrad,
    },
}
HISTOGRAM_BINS = 120


class QAT(QuantizedTraining):
    """method=qat."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.is_scheduled = section.schedule == "transition_rate"
        self.start = None if section.start is None else Start(section.start, context.config)
        self.needs_full_precision = self.start is None
        self.teacher = Teacher.of(section.teacher, context)
        if self.is_scheduled and all(bits.weight == 32 for bits in self.planned.values()):
            raise RequestError(
                "quantizer.policy: leaves the weights of every layer in full precision, but"
                " method.schedule=transition_rate schedules the transitions of quantized weights; type"
                " quantizer.policy=[] or method.schedule=learning_rate"
            )
        self.bits = {name: bits.weight for name, bits in self.planned.items() if bits.weight != 32}
        if self.is_scheduled and (largest := max(map(self.target, self.bits))) > 1:
            allowed = math.floor(1000 * section.target_transition_rate / largest) / 1000
            raise RequestError(
                f"method.target_transition_rate: got {section.target_transition_rate}, which times the root of the bits"
                f" asks for {largest:.3g} of a layer's weights per update, allowed: at most 1; type"
                f" method.target_transition_rate={allowed}"
            )
        if section.oscillation == "freezing" and min(self.bits.values(), default=0) > section.freezing.max_bits:
            raise RequestError(
                f"method.freezing.max_bits: got {section.freezing.max_bits}, below the bits of every layer, so that"
                f" nothing would be frozen; type method.freezing.max_bits={min(self.bits.values())}, or"
                " method.oscillation=none"
            )
        if section.oscillation != "none" and (names := standardized_layers(context.model, self.planned)):
            raise RequestError(
                f"method.oscillation: {section.oscillation} moves a latent weight to the middle of its bin, which the"
                f" standardized weights of {', '.join(names)} do not have; type method.oscillation=none"
            )

    @property
    def learn_weight_scale(self) -> bool:
        """Under a schedule it is frozen: weights could otherwise transit without moving themselves (footnote 2)."""
        return self.section.schedule != "transition_rate"

    @classmethod
    def check_files(cls, section, config) -> None:
        if section.start is not None:
            Start(section.start, config)
        Teacher.check_files(section.teacher)

    def measure_start(self) -> dict:
        return super().measure_start() if self.start is None else {"start": self.start.metrics}

    def load_start(self) -> None:
        if self.start is not None:
            self.start.load_into(self.context.model)

    def after_wrapping(self) -> None:
        section = self.section
        self.trackers = {
            name: TransitionTracker(layer.weight_quantizer.discrete, layer.weight, section.m, section.m_o)
            for name, layer in self.layers.items()
        }
        self.freezing = {}
        if section.oscillation == "freezing":
            from_start = section.freezing.mean_from == "start_of_run"
            self.freezing = {
                name: IterativeFreezing(self.trackers[name], layer.weight_quantizer.latent, from_start)
                for name, layer in self.layers.items()
                if self.bits[name] <= section.freezing.max_bits
            }

    def build(self, total_steps: int) -> None:
        if self.section.teacher.architecture == "start":
            self.teacher = Teacher(self.context.model)
        super().build(total_steps)

    def training_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = super().training_batch(batch)
        return batch if self.teacher is None else batch | {"label": self.teacher.probabilities(batch["image"])}

    def make_optimizers(self, groups: dict[str, list[Tensor]]) -> list[torch.optim.Optimizer]:
        section = self.section
        rate = getattr(section.learning_rate, section.optimizer)
        plain = {"weight_decay": 0.0} | ({"momentum": 0.0} if section.optimizer == "sgd" else {})
        latent = (
            self.scheduled_groups(groups["latent"]) if self.is_scheduled else [{"params": groups["latent"], "lr": rate}]
        )
        listed = [
            *latent,
            {"params": groups["weights"], "lr": rate},
            {"params": groups["scales"], "lr": section.scale_learning_rate} | plain,
            {"params": groups["normalization"], "lr": rate} | plain,
        ]
        options = {"lr": rate, "weight_decay": section.weight_decay}
        if section.optimizer == "sgd":
            options |= {"momentum": section.momentum, "nesterov": section.nesterov}
        if self.is_scheduled:
            options |= {"initial_talr": rate, "eta": section.eta * rate, "m": section.m, "rule": section.rule}
        listed = [group for group in listed if group["params"]]
        return [OPTIMIZERS[section.schedule][section.optimizer](listed, **options)]

    def target(self, layer: str) -> float:
        """R^0 = lambda sqrt(b_w) of a quantized layer: a fraction of its weights."""
        one_for_all = self.section.target_bits == "section"
        bits = self.context.config.quantizer.weight.bits if one_for_all else self.bits[layer]
        return self.section.target_transition_rate * math.sqrt(bits)

    def scheduled_groups(self, latent: list[Tensor]) -> list[dict[str, Any]]:
        """A group of parameters for each target there is. They are the optimizer's first, and `self.group_of` tells
        a layer's.
        """
        names = {id(layer.weight): name for name, layer in self.layers.items()}
        by_target: dict[float, list[Tensor]] = {}
        for weight in latent:
            by_target.setdefault(self.target(names[id(weight)]), []).append(weight)
        order = {target: number for number, target in enumerate(by_target)}
        self.group_of = {name: order[self.target(name)] for name in self.layers}
        return [
            {
                "params": weights,
                "lr": target,
                "discretize": [self.layers[names[id(weight)]].weight_quantizer.discrete for weight in weights],
            }
            for target, weights in by_target.items()
        ]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        loss = super().loss(batch)
        if self.section.oscillation == "dampening" and (progress := self._cure_progress()) is not None:
            weight = self.section.dampening.weight * (1 - math.cos(math.pi * progress)) / 2
            loss = loss + weight * sum(self._dampening(layer) for layer in self.layers.values())
        return loss

    def after_update(self) -> None:
        super().after_update()
        threshold = None
        if self.freezing and (progress := self._cure_progress()) is not None:
            section = self.section.freezing
            factor = (1 + math.cos(math.pi * progress)) / 2
            threshold = section.threshold_end + (section.threshold_start - section.threshold_end) * factor
        for name, tracker in self.trackers.items():
            if name in self.freezing:
                self.freezing[name].update(self.layers[name].weight, threshold)
            else:
                tracker.update(self.layers[name].weight)

    def _cure_progress(self) -> float | None:
        """How far the schedule of dampening or freezing is, 0 to 1; None before it starts."""
        start = getattr(self.section, self.section.oscillation).start
        progress = (self.step / self.total_steps - start) / (1 - start)
        return progress if progress >= 0 else None

    def _dampening(self, layer: nn.Module) -> Tensor:
        quantizer = layer.weight_quantizer
        low, high = quantizer.limits
        normalized = quantizer.normalized(layer.weight)
        clipped = (normalized <= low) | (normalized >= high)
        return dampening_loss(
            layer.weight,
            quantizer.latent(quantizer.discrete(layer.weight)),
            clipped,
            self.section.dampening.aggregation,
        )

    def layer_quantities(self) -> dict[str, dict[str, Tensor]]:
        rows = super().layer_quantities()
        layers, trackers = self.layers, self.trackers
        if not layers:
            return rows
        rows["running_transition_rate"] = {name: tracker.running_transition_rate for name, tracker in trackers.items()}
        rows["effective_step_size"] = {
            name: tracker.jump * layers[name].weight_quantizer.effective_step_size for name, tracker in trackers.items()
        }
        rows["distance_to_transition_point"] = {
            name: layer.weight_quantizer.distance_to_transition_point(layer.weight).mean()
            for name, layer in layers.items()
        }
        rows["oscillating_share"] = {name: tracker.oscillating_share() for name, tracker in trackers.items()}
        if self.freezing:
            rows["frozen_share"] = {
                name: freezing.frozen.mean(dtype=torch.float32) for name, freezing in self.freezing.items()
            }
        if self.is_scheduled:
            # A layer behind which no loss lies has no gradient, and no state
            states = {
                name: state
                for name, layer in layers.items()
                if "talr" in (state := self.optimizers[0].state[layer.weight])
            }
            rows["running_transition_rate"] = {name: state["running_transition_rate"] for name, state in states.items()}
            rows["talr"] = {name: state["talr"] for name, state in states.items()}
        return rows

    def logged(self) -> dict:
        """The target of all layers; where they differ, the mean over layers, and each layer's own."""
        values = super().logged()
        if not self.is_scheduled or not self.layers:
            return values
        targets = {name: self.optimizers[0].param_groups[group]["lr"] for name, group in self.group_of.items()}
        if len(set(self.group_of.values())) == 1:
            return values | {"target_transition_rate": self.optimizers[0].param_groups[0]["lr"]}
        mean = sum(targets.values()) / len(targets)
        return values | {"target_transition_rate": mean, "layers/target_transition_rate": targets}

    def draw(self) -> None:
        super().draw()
        directory = self.context.directory
        figures = directory.figures
        transitions.transition_curves(directory.metrics.read(), figures / "transitions.png")
        transitions.latent_weight_histograms(self._histograms(), figures / "latent_weights.png")

    @torch.no_grad()
    def _histograms(self) -> dict[str, dict]:
        """Of the normalized latent weights of a few layers, for the picture."""
        found = {}
        for name in spread_evenly(list(self.layers)):
            layer = self.layers[name]
            low, high = layer.weight_quantizer.limits
            counts = layer.weight_quantizer.normalized(layer.weight).float().cpu().histc(HISTOGRAM_BINS, low, high)
            found[name] = {
                "low": low,
                "high": high,
                "counts": counts.tolist(),
                "transition_points": layer.weight_quantizer.transition_points,
            }
        return found

    def state_dict(self) -> dict:
        return super().state_dict() | {
            "trackers": {name: tracker.state_dict() for name, tracker in self.trackers.items()},
            "freezing": {name: freezing.state_dict() for name, freezing in self.freezing.items()},
            "teacher": None if self.teacher is None else self.teacher.fingerprint,
        }

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name, tracker in self.trackers.items():
            tracker.load_state_dict(state["trackers"][name])
        for name, freezing in self.freezing.items():
            freezing.load_state_dict(state["freezing"][name])
        if self.teacher is not None:
            self.teacher.require_same(state["teacher"])
