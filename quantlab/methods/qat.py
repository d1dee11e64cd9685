"""Quantization-aware training whose weight transitions are scheduled, and the ordinary kind that it is compared with.

"Scheduling Weight Transitions for Quantization-Aware Training", Lee et al., ICCV 2025 (arXiv 2404.19248). Parameter groups
and their rates follow the released code: latent weights of quantized layers (scheduled), other weights and biases, quantizer
scales (a rate of their own, no momentum, no decay), normalization parameters (no momentum, no decay). All follow one decay.
"""

import copy
import math

import torch
from torch import Tensor, nn

from quantlab.config import instantiate
from quantlab.errors import RequestError
from quantlab.methods.base import Method, Outcome, RunContext, shuffled_batch
from quantlab.methods.pretrain import LossOf
from quantlab.methods.qat_start import Start
from quantlab.optim import SGDT, AdamT, AdamWT
from quantlab.optim.oscillation import IterativeFreezing, TransitionTracker, dampening_loss
from quantlab.quantizers.trained_layer import (
    calibrate_activations, planned_bits, quantizer_parameters, weight_quantized_layers, wrap_for_training,
)
from quantlab.report import transitions
from quantlab.report.runs import read_metrics
from quantlab.tasks.base import to_device

OPTIMIZERS = {
    "transition_rate": {"sgd": SGDT, "adam": AdamT, "adamw": AdamWT},
    "learning_rate": {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW},
}
HISTOGRAM_BINS = 120
HISTOGRAM_LAYERS = 4        # drawn, spread evenly over the depth


def decay_factor(section, step: int, total: int, steps_per_epoch: int) -> float:
    """What targets and learning rates are multiplied by at `step` of `total`: cosine to zero, steps, or constant 1.

    With decay_every=epoch it changes between epochs only, and the cosine ends one epoch above zero, as torch's schedulers do.
    """
    unit = steps_per_epoch if section.decay_every == "epoch" else 1
    progress = step // unit * unit / total
    if section.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if section.decay == "step":
        return section.decay_factor ** sum(progress >= milestone for milestone in section.milestones)
    return 1.0


class QAT(Method):
    """method=qat."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.dataset = context.task.dataset()
        self.collate, self.workers = context.task.collate, context.task.workers
        self.steps_per_epoch = max(len(self.dataset) // section.batch_size, 1)
        self.steps = section.epochs * self.steps_per_epoch
        self.is_scheduled = section.schedule == "transition_rate"
        self.start = None if section.start is None else Start(section.start, context.config)
        self.needs_full_precision = self.start is None
        self.policy = instantiate(context.config.quantizer)
        planned = planned_bits(context.model, self.policy)
        if self.is_scheduled and all(bits.weight == 32 for bits in planned.values()):
            raise RequestError("quantizer.policy: leaves the weights of every layer in full precision, but method.schedule=transition_rate "
                               "schedules the transitions of quantized weights; type quantizer.policy=[] or method.schedule=learning_rate")

    def batch_indices(self, step: int) -> list[int]:
        return shuffled_batch(len(self.dataset), self.section.batch_size, self.context.config.seed, step)

    def build(self, total_steps: int) -> None:
        self.total_steps = total_steps
        context, model = self.context, self.context.model
        self.models = {}            # by label, for the pictures; layers are wrapped in place, so full precision is put aside
        if self.start is None:
            self.models["full precision"] = copy.deepcopy(model).cpu()
            self.baseline = {"full_precision": context.task.evaluate(model, "test", context.device, context.progress)}
        else:
            self.baseline = {"start": self.start.metrics}
        self.baseline |= context.task.baseline(context.device)
        wrap_for_training(model, self.policy, learn_weight_scale=not self.is_scheduled)
        first = to_device(self.collate(self.dataset.__getitems__(self.batch_indices(0))), context.device)
        first = context.task.prepare(first, train=False)
        calibrate_activations(model, lambda: model.training_loss(first))
        if self.start is not None:
            self.start.load_into(model)
        self.layers = weight_quantized_layers(model)
        self.trackers = {name: TransitionTracker(layer.weight_quantizer.discrete, layer.weight, self.section.m, self.section.m_o)
                         for name, layer in self.layers.items()}
        self.freezing = {}
        if self.section.oscillation == "freezing":
            self.freezing = {name: IterativeFreezing(self.trackers[name], layer.weight_quantizer.latent)
                             for name, layer in self.layers.items()}
        self.model, self.optimizer = context.accelerator.prepare(LossOf(model.train()), self._make_optimizer(model))

    def _make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        section = self.section
        rate = getattr(section.learning_rate, section.optimizer)
        latent = {id(layer.weight): name for name, layer in self.layers.items()}
        scales = {id(parameter) for parameter in quantizer_parameters(model)}
        groups: dict[str, list[Tensor]] = {"latent": [], "weights": [], "scales": [], "normalization": []}
        self.latent_names, seen = [], set()
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if id(parameter) in latent:
                groups["latent"].append(parameter)
                self.latent_names.append(latent[id(parameter)])
            elif id(parameter) in scales:
                groups["scales"].append(parameter)
            elif parameter.ndim > 1 or _has_weight_matrix(model, name):
                groups["weights"].append(parameter)
            else:
                groups["normalization"].append(parameter)
        plain = {"weight_decay": 0.0} | ({"momentum": 0.0} if section.optimizer == "sgd" else {})
        listed = [
            {"params": groups["latent"], "lr": rate}, {"params": groups["weights"], "lr": rate},
            {"params": groups["scales"], "lr": section.scale_learning_rate} | plain,
            {"params": groups["normalization"], "lr": rate} | plain,
        ]
        options = {"lr": rate, "weight_decay": section.weight_decay}
        if section.optimizer == "sgd":
            options["momentum"] = section.momentum
        if self.is_scheduled:
            # R^0 = lambda sqrt(b_w): one target for all layers, from the section's weight bits
            target = section.target_transition_rate * math.sqrt(self.context.config.quantizer.weight.bits)
            listed[0] |= {"lr": target, "discretize": [self.layers[name].weight_quantizer.discrete for name in self.latent_names]}
            options |= {"initial_talr": rate, "eta": section.eta * rate, "m": section.m, "rule": section.rule}
        listed = [group for group in listed if group["params"]]
        self.base_rates = [group["lr"] for group in listed]
        return OPTIMIZERS[section.schedule][section.optimizer](listed, **options)

    def before_step(self, step: int) -> None:
        self.step = step
        factor = decay_factor(self.section, step, self.total_steps, self.steps_per_epoch)
        for group, base in zip(self.optimizer.param_groups, self.base_rates):
            group["lr"] = base * factor

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.model(self.context.task.prepare(batch, train=True))
        if self.section.oscillation == "dampening" and (progress := self._cure_progress()) is not None:
            weight = self.section.dampening.weight * (1 - math.cos(math.pi * progress)) / 2
            loss = loss + weight * sum(self._dampening(layer) for layer in self.layers.values())
        return loss

    def after_update(self) -> None:
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

    @staticmethod
    def _dampening(layer: nn.Module) -> Tensor:
        quantizer = layer.weight_quantizer
        low, high = quantizer.limits
        normalized = quantizer.normalized(layer.weight)
        clipped = (normalized <= low) | (normalized >= high)
        return dampening_loss(layer.weight, quantizer.latent(quantizer.discrete(layer.weight)), clipped)

    @torch.no_grad()
    def logged(self) -> dict:
        """Means over layers, and under `layers/...` each layer's own value. Rates are fractions."""
        names, trackers = list(self.trackers), self.trackers.values()
        if not names:
            return {}
        columns = {
            "running_transition_rate": [tracker.running_transition_rate for tracker in trackers],
            "effective_step_size": [tracker.jump * self.layers[name].weight_quantizer.effective_step_size
                                    for name, tracker in self.trackers.items()],
            "distance_to_transition_point": [layer.weight_quantizer.distance_to_transition_point(layer.weight).mean()
                                             for layer in self.layers.values()],
            "oscillating_share": [tracker.oscillating_share() for tracker in trackers],
        }
        if self.freezing:
            columns["frozen_share"] = [freezing.frozen.mean(dtype=torch.float32) for freezing in self.freezing.values()]
        groups = self.optimizer.param_groups
        values = {"learning_rate": groups[-1]["lr"]}
        if self.is_scheduled:
            states = [self.optimizer.state[self.layers[name].weight] for name in names]
            columns["running_transition_rate"] = [state["running_transition_rate"] for state in states]
            columns["talr"] = [state["talr"] for state in states]
            values["target_transition_rate"] = groups[0]["lr"]
        table = torch.stack([torch.stack(column).float() for column in columns.values()]).tolist()     # one synchronization
        for quantity, row in zip(columns, table):
            values[quantity] = sum(row) / len(row)
            values[f"layers/{quantity}"] = dict(zip(names, row))
        return values

    def validate(self) -> dict[str, float]:
        return self.context.task.evaluate(self.context.model, "validation", self.context.device)

    def finish(self) -> Outcome:
        context, quantizer = self.context, self.context.config.quantizer
        metrics = context.task.evaluate(context.model, "test", context.device, context.progress)
        bits = f"W{quantizer.weight.bits}A{quantizer.activation.bits}"
        if context.accelerator.is_main_process:
            figures = context.directory / "figures"
            transitions.transition_curves(read_metrics(context.directory), figures / "transitions.png")
            transitions.latent_weight_histograms(self._histograms(), figures / "latent_weights.png")
            models = {label: model.to(context.device) for label, model in (self.models | {bits: context.model}).items()}
            context.task.draw(models, context.directory / "samples", context.device)
        return Outcome(metrics=metrics, baseline=self.baseline, protocol=context.task.protocol(),
                       model=context.model.state_dict(),
                       model_facts={"weights": "last step", "bits": bits})

    @torch.no_grad()
    def _histograms(self) -> dict[str, dict]:
        """Of the normalized latent weights of a few layers, for the picture."""
        names = list(self.layers)
        chosen = [names[round(i * (len(names) - 1) / max(HISTOGRAM_LAYERS - 1, 1))] for i in range(min(HISTOGRAM_LAYERS, len(names)))]
        found = {}
        for name in dict.fromkeys(chosen):
            layer = self.layers[name]
            low, high = layer.weight_quantizer.limits
            counts = layer.weight_quantizer.normalized(layer.weight).float().cpu().histc(HISTOGRAM_BINS, low, high)
            found[name] = {"low": low, "high": high, "counts": counts.tolist(),
                           "transition_points": layer.weight_quantizer.transition_points}
        return found

    def state_dict(self) -> dict:
        return {"model": self.context.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "trackers": {name: tracker.state_dict() for name, tracker in self.trackers.items()},
                "freezing": {name: freezing.state_dict() for name, freezing in self.freezing.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.context.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, tracker in self.trackers.items():
            tracker.load_state_dict(state["trackers"][name])
        for name, freezing in self.freezing.items():
            freezing.load_state_dict(state["freezing"][name])


def _has_weight_matrix(model: nn.Module, parameter: str) -> bool:
    """Whether `parameter` is the bias of a convolution or linear layer rather than of a normalization."""
    weight = getattr(model.get_submodule(parameter.rpartition(".")[0]), "weight", None)
    return weight is not None and weight.ndim > 1
