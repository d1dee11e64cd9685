"""Low-bit fixed-point training: weights, activations and gradients are integers in every product of a training step.

"Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024 (arXiv
2407.12637). What is new in it is where a gradient's interval ends: see `quantizers.gradient` and
`quantizers.gradient_interval`. Weights and inputs have learned clipping values (`quantizers.learned_clipping`), moved
by an Adam of their own; everything else by one optimizer.

The paper trains from scratch; `initialization=full_precision` starts from the model's full-precision recipe instead.
The released code chooses clip ratios in its first step and leaves out that step's update; here they are chosen before
it, and no update is lost.

`deviation_scaling` is the other half of what DSGC's authors propose (Zhu et al., CVPR 2020): a learning rate of each
layer, smaller where quantization turns the gradient more. The formula and its constants are those of published
summaries of the paper. That it concerns the weights of the layers, and that d_c is measured when the interval is chosen
anew and kept until the next time, is our reading.
"""

from typing import Any

import torch
from torch import Tensor

from quantlab.methods.base import Outcome, RunContext
from quantlab.methods.quantized_training import QuantizedTraining
from quantlab.quantizers.gradient_interval import learning_rate_scale
from quantlab.quantizers.integer_check import check_integers
from quantlab.tasks.base import to_device

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
CHECKED_IMAGES = 16  # of one batch: integer products of a whole one would take as long as many steps


class LowBit(QuantizedTraining):
    """method=low_bit."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.needs_full_precision = section.initialization == "full_precision"
        self.learning_rate_scales: dict[str, float] = {}  # of layers, with deviation_scaling

    def make_optimizers(self, groups: dict[str, list[Tensor]]) -> list[torch.optim.Optimizer]:
        section = self.section
        momentum = {"momentum": section.momentum} if section.optimizer == "sgd" else {}
        moved = [parameter for kind in ("latent", "weights", "normalization") for parameter in groups[kind]]
        rate = getattr(section.learning_rate, section.optimizer)
        listed = self._layers_apart(moved) if section.deviation_scaling else moved
        optimizers = [OPTIMIZERS[section.optimizer](listed, lr=rate, weight_decay=section.weight_decay, **momentum)]
        if groups["scales"]:
            optimizers.append(torch.optim.Adam(groups["scales"], lr=section.scale_learning_rate))
        return optimizers

    def _layers_apart(self, moved: list[Tensor]) -> list[dict]:
        """A group for the weight of every layer whose gradient is quantized, in the order of
        `learning_rate_scales`, then one of all else.
        """
        weights = {id(self.context.model.get_submodule(name).weight): name for name in self.gradients_of}
        apart = {weights[id(parameter)]: parameter for parameter in moved if id(parameter) in weights}
        self.learning_rate_scales = dict.fromkeys(apart, 1.0)
        others = [parameter for parameter in moved if id(parameter) not in weights]
        return [*({"params": [parameter]} for parameter in apart.values()), {"params": others}]

    def after_backward(self) -> None:
        super().after_backward()
        if not self.learning_rate_scales:
            return
        if self.step % self.context.config.quantizer.gradient.period == 0:
            deviations = torch.stack(
                [self.gradients_of[name].interval.deviation for name in self.learning_rate_scales]
            ).tolist()
            self.learning_rate_scales = {
                name: learning_rate_scale(deviation, self.section.deviation_alpha, self.section.deviation_beta)
                for name, deviation in zip(self.learning_rate_scales, deviations)
            }
        for group, scale in zip(self.optimizers[0].param_groups[:-1], self.learning_rate_scales.values(), strict=True):
            group["lr"] *= scale  # which `before_step` has set

    def layer_quantities(self) -> dict[str, dict[str, Tensor]]:
        rows = super().layer_quantities()
        if rows and self.learning_rate_scales:
            rows["learning_rate_scale"] = {
                name: torch.tensor(scale, device=self.context.device)
                for name, scale in self.learning_rate_scales.items()
            }
        return rows

    def state_dict(self) -> dict[str, Any]:
        scales = {"learning_rate_scales": self.learning_rate_scales} if self.learning_rate_scales else {}
        return super().state_dict() | scales

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.learning_rate_scales = state.get("learning_rate_scales", {})

    def finish(self) -> Outcome:
        outcome = super().finish()
        if self.section.integer_check:
            model, task = self.context.model.train(), self.context.task
            batch = to_device(
                self.collate(self.dataset.__getitems__(self.batch_indices(0)[:CHECKED_IMAGES])), self.context.device
            )
            outcome.diagnostics["integer_check"] = check_integers(
                model, lambda: model.training_loss(task.prepare(batch, train=False))
            )
        return outcome
