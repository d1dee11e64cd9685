"""What the methods that train a quantized network share: wrapping, calibration, decay, quantized gradients, pictures.

A subclass says where training starts and makes the optimizers; `qat` adds scheduled transitions, `low_bit` is little
more than this.
"""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from quantlab.config import instantiate
from quantlab.errors import RequestError, RunError
from quantlab.methods import quantized_gradients
from quantlab.methods.base import Method, Outcome, RunContext, batches_per_epoch, shuffled_batch
from quantlab.methods.batch_norm_statistics import batch_norms, reestimate
from quantlab.methods.decay import decay_factor
from quantlab.methods.pretrain import LossOf
from quantlab.models.model_file import tensors_of
from quantlab.quantizers.calibration import calibrate_activations, calibrate_weights
from quantlab.quantizers.gradient import agree_on_choice, calibrate_gradients, gradient_quantizers, update_intervals
from quantlab.quantizers.insert import insert, planned_bits, quantizer_parameters, weight_quantized_layers
from quantlab.quantizers.layers import describe_layers, survey
from quantlab.report.metrics import format_bits
from quantlab.run.checkpoints import Checkpoints
from quantlab.tasks.base import iterate_batches, to_device

logger = logging.getLogger("quantlab")


class QuantizedTraining(Method):
    """Base of `qat` and `low_bit`. A subclass gives `start`, `make_optimizers` and, where it needs them, more hooks."""

    learn_weight_scale = True

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.dataset = context.task.dataset()
        self.collate, self.workers = context.task.collate, context.task.workers
        self.drop_last = context.config.trainer.drop_last
        self.steps_per_epoch = batches_per_epoch(len(self.dataset), section.batch_size, self.drop_last)
        self.steps = section.epochs * self.steps_per_epoch
        self.policy = instantiate(context.config.quantizer, learn_weight_scale=self.learn_weight_scale)
        self.planned = planned_bits(context.model, self.policy)
        self.notes: list[str] = []  # for the tables
        self.held: dict[str, Any] = {}  # layers whose clip ratio stays
        self.drawn: dict[str, nn.Module] = {}  # models beside which the task draws this one
        if section.batch_norm_batches and not batch_norms(context.model):
            raise RequestError(
                f"method.batch_norm_batches: got {section.batch_norm_batches}, but model={context.config.model.name}"
                " has no BatchNorm with running statistics, allowed: 0; type method.batch_norm_batches=0"
            )

    def batch_indices(self, step: int) -> list[int]:
        return shuffled_batch(
            len(self.dataset), self.section.batch_size, self.context.config.seed, step, self.drop_last
        )

    # build ---------------------------------------------------------------------------------------------------------
    def measure_start(self) -> dict[str, Any]:
        """The baseline of the results: what the full-precision weights are worth that training starts from, if it
        does.
        """
        context = self.context
        if not self.needs_full_precision:
            return {}
        if context.task.draws:
            self.drawn = {"full precision": copy.deepcopy(context.model).cpu()}  # layers are wrapped in place
        return {"full_precision": context.task.evaluate(context.model, "test", context.device, context.progress)}

    def load_start(self) -> None:
        """Weights and quantizers of an earlier run, once the network is wrapped."""

    def make_optimizers(self, groups: dict[str, list[Tensor]]) -> list[torch.optim.Optimizer]:
        """groups: the parameters by kind, `parameter_groups`."""
        raise NotImplementedError  # every method's own

    def build(self, total_steps: int) -> None:
        self.total_steps = total_steps
        context, model = self.context, self.context.model
        self.baseline = self.measure_start() | context.task.baseline(context.device)
        first = to_device(self.collate(self.dataset.__getitems__(self.batch_indices(0))), context.device)
        first = context.task.prepare(first, train=False)
        surveyed = survey(model, lambda: model.training_loss(first))
        insert(model, self.policy)
        calibrate_weights(model)
        unused = calibrate_activations(model, lambda: model.training_loss(first))
        self._say_what_is_unused(unused)
        self.described = describe_layers(surveyed, model, self.policy, lambda: model.training_loss(first))
        self.load_start()
        self.layers = {name: layer for name, layer in weight_quantized_layers(model).items() if name not in unused}
        self.gradients_of = gradient_quantizers(model)
        model.train()
        if self.gradients_of:
            calibrate_gradients(model, lambda: model.training_loss(first))
            self.held, notes = quantized_gradients.held_clip_ratios(self.gradients_of)
            self.notes += notes
        self.after_wrapping()
        self.model, *self.optimizers = context.accelerator.prepare(
            LossOf(model), *self.make_optimizers(self.parameter_groups())
        )
        self.base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def _say_what_is_unused(self, unused: list[str]) -> None:
        if unused and len(unused) == len(self.planned):
            raise RunError(
                f"quantizer: the network calls none of the {len(unused)} layers that are to be quantized, {unused[0]}"
                " among them: nothing would be quantized; choose another quantizer.policy or model"
            )
        if unused:
            logger.info(
                "%d of %d layers are not quantized, the network never calls them: %s",
                len(unused),
                len(self.planned),
                ", ".join(unused),
            )

    def after_wrapping(self) -> None:
        """The network is quantized and calibrated, and no optimizer has seen it yet."""

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Every parameter that an optimizer moves, once: `latent` (weights that are quantized), `weights` (other
        weights, and the biases of layers), `scales` (of quantizers), `normalization`.
        """
        model = self.context.model
        latent = {id(layer.weight) for layer in self.layers.values()}
        scales = {id(parameter) for parameter in quantizer_parameters(model)}
        groups: dict[str, list[Tensor]] = {"latent": [], "weights": [], "scales": [], "normalization": []}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) in latent:
                groups["latent"].append(parameter)
            elif id(parameter) in scales:
                groups["scales"].append(parameter)
            elif parameter.ndim > 1 or _has_weight_matrix(model, name):
                groups["weights"].append(parameter)
            else:
                groups["normalization"].append(parameter)
        return groups

    # one step ------------------------------------------------------------------------------------------------------
    def before_step(self, step: int) -> None:
        self.step = step
        factor = decay_factor(self.section, step, self.total_steps, self.steps_per_epoch)
        for optimizer, rates in zip(self.optimizers, self.base_rates):
            for group, base in zip(optimizer.param_groups, rates):
                group["lr"] = base * factor
        is_logged = (step + 1) % self.context.config.trainer.log_every == 0 or step + 1 == self.total_steps
        self.stance = quantized_gradients.observe(self.gradients_of, step, is_logged)

    def training_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of the dataset as the network is trained on it."""
        return self.context.task.prepare(batch, train=True)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.compiler.set_stance(self.stance):
            return self.model(self.training_batch(batch))

    def after_backward(self) -> None:
        if any(quantizer.choosing for quantizer in self.gradients_of.values()):
            agree_on_choice(self.gradients_of.values())

    def update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def after_update(self) -> None:
        update_intervals(self.gradients_of.values())

    def layer_quantities(self) -> dict[str, dict[str, Tensor]]:
        """What is logged of single layers: by quantity and layer a scalar."""
        return quantized_gradients.observed(self.gradients_of)

    @torch.no_grad()
    def logged(self) -> dict:
        """Means over layers, and under `layers/...` each layer's own value. Rates and shares are fractions."""
        quantities = self.layer_quantities()
        if not quantities:
            return {}
        values: dict[str, Any] = {"learning_rate": self.optimizers[0].param_groups[-1]["lr"]}
        # one synchronization
        numbers = iter(torch.stack([value.float() for row in quantities.values() for value in row.values()]).tolist())
        for quantity, row in quantities.items():
            layers = {name: next(numbers) for name in row}
            values[quantity] = sum(layers.values()) / len(layers)
            values[f"layers/{quantity}"] = layers
        target = quantized_gradients.clipped_share_target(self.gradients_of)
        if target is not None:
            values["gradient_clipped_share_target"] = target
        return values

    # end -----------------------------------------------------------------------------------------------------------
    def validate(self) -> dict[str, float]:
        return self.context.task.evaluate(self.context.model, "validation", self.context.device)

    def checkpoint_score(self, validated: dict[str, float]) -> list[float]:
        """The task's main metric; the loss breaks ties, which a small validation part has many of."""
        return [-validated[self.context.task.main_metric], validated["loss"]]

    def best_validated(self) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
        """`step` and test `metrics` of the best validated checkpoint, and its tensors; empty and None where it is
        the last one.
        """
        context, checkpoints = self.context, Checkpoints.of(self.context.directory)
        found = checkpoints.load_best()
        if checkpoints.damaged:
            self.notes.append(
                f"checkpoints are damaged ({', '.join(checkpoints.damaged)}): the best validated state may be lost"
            )
        if found is None or found[0] >= self.total_steps:
            return {}, None
        step, state, _ = found
        last = copy.deepcopy(context.model.state_dict())
        context.model.load_state_dict(state["method"]["model"])
        self.reestimate_batch_norm()
        metrics = self._test_metrics()
        tensors = copy.deepcopy(tensors_of(context.model))
        context.model.load_state_dict(last)
        return {"step": step, "metrics": metrics}, tensors

    def reestimate_batch_norm(self) -> None:
        """`batch_norm_batches` of the batches that would come next, augmented as in training; the same for every
        process.
        """
        context, count = self.context, self.section.batch_norm_batches
        if not count:
            return
        workers = context.config.trainer.num_workers
        loader = DataLoader(
            self.dataset,
            batch_sampler=[self.batch_indices(self.total_steps + number) for number in range(count)],
            collate_fn=self.collate,
            num_workers=self.workers if workers is None else workers,
        )
        batches = (
            context.task.prepare(to_device(batch, context.device), train=True)
            for batch in iterate_batches(context.progress(loader, "BatchNorm statistics"))
        )
        with torch.random.fork_rng():
            torch.manual_seed(context.config.seed)  # a run that is resumed at its end draws the same augmentation
            reestimate(context.model, batches, context.model.training_loss)

    def draw(self) -> None:
        """Pictures of the training, on the main process."""
        quantized_gradients.draw(self.gradients_of, self.context.directory)

    def finish(self) -> Outcome:
        context, section, quantizer = self.context, self.section, self.context.config.quantizer
        metrics, baseline, protocol = self._test_metrics(), self.baseline, context.task.protocol()
        if section.batch_norm_batches:
            self.reestimate_batch_norm()
            baseline = baseline | {"running_statistics": metrics}
            metrics, protocol = self._test_metrics(), protocol | {"batch_norm_batches": section.batch_norm_batches}
        bits = format_bits({part: getattr(quantizer, part).bits for part in ("weight", "activation", "gradient")})
        if context.accelerator.is_main_process:
            self.draw()
            if context.task.draws:
                models = {label: model.to(context.device) for label, model in self.drawn.items()} | {
                    bits: context.model
                }
                context.task.draw(models, context.directory.samples, context.device)
        best, tensors = self.best_validated()
        return Outcome(
            metrics=metrics,
            baseline=baseline,
            protocol=protocol,
            best=best,
            best_model=tensors,
            model=tensors_of(context.model),
            network=context.model,
            model_facts={"weights": "last step", "bits": bits},
            notes=self.notes,
            diagnostics={"held_clip_ratios": self.held} if self.held else {},
        )

    def _test_metrics(self) -> dict[str, float]:
        return self.context.task.evaluate(self.context.model, "test", self.context.device, self.context.progress)

    # memory --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict:
        return {"model": self.context.model.state_dict(), "optimizers": [one.state_dict() for one in self.optimizers]}

    def load_state_dict(self, state: dict) -> None:
        self.context.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)


def _has_weight_matrix(model: nn.Module, parameter: str) -> bool:
    """Whether `parameter` is the bias of a convolution or linear layer rather than of a normalization."""
    weight = getattr(model.get_submodule(parameter.rpartition(".")[0]), "weight", None)
    return weight is not None and weight.ndim > 1
