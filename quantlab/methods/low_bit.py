"""Low-bit fixed-point training: weights, activations and gradients are integers in every product of a training step.

"Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024 (arXiv 2407.12637). What
is new in it is where a gradient's interval ends: see `quantizers.gradient` and `quantizers.gradient_interval`. Weights and inputs
have learned clipping values (`quantizers.learned_clipping`), moved by an Adam of their own; everything else by one optimizer.

The paper trains from scratch; `initialization=full_precision` starts from the model's full-precision recipe instead.
"""

import torch
from torch import Tensor

from quantlab.methods.base import Outcome, RunContext
from quantlab.methods.quantized_training import QuantizedTraining
from quantlab.quantizers.integer_check import check_integers
from quantlab.tasks.base import to_device

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
CHECKED_IMAGES = 16     # of one batch: integer products of a whole one would take as long as many steps


class LowBit(QuantizedTraining):
    """method=low_bit."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.needs_full_precision = section.initialization == "full_precision"

    def make_optimizers(self, groups: dict[str, list[Tensor]]) -> list[torch.optim.Optimizer]:
        section = self.section
        momentum = {"momentum": section.momentum} if section.optimizer == "sgd" else {}
        moved = [parameter for kind in ("latent", "weights", "normalization") for parameter in groups[kind]]
        rate = getattr(section.learning_rate, section.optimizer)
        optimizers = [OPTIMIZERS[section.optimizer](moved, lr=rate, weight_decay=section.weight_decay, **momentum)]
        if groups["scales"]:
            optimizers.append(torch.optim.Adam(groups["scales"], lr=section.scale_learning_rate))
        return optimizers

    def finish(self) -> Outcome:
        outcome = super().finish()
        if self.section.integer_check:
            model, task = self.context.model.train(), self.context.task
            batch = to_device(self.collate(self.dataset.__getitems__(self.batch_indices(0)[:CHECKED_IMAGES])), self.context.device)
            outcome.diagnostics["integer_check"] = check_integers(model, lambda: model.training_loss(task.prepare(batch, train=False)))
        return outcome
