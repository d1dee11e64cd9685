"""reconstruction=step: the result of each single denoising step, from full-precision states: AccuQuant with groups of
one step.

step_loss `state` compares x_t', which weights steps by how far they move the state (|b_t|); `output` compares the
network's output, which evaluates the full-precision network again. Both losses are divided by their value for the
calibrated ranges.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quantlab.diffusion.samplers import State
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.methods.ptq.objective import Objective, Phase
from quantlab.quantizers.rounding import held_weights

LABEL = "step"
FORWARD_PASSES = {"state": 3, "output": 4}  # of an iteration; a backward pass counts as two


class Step(Objective):
    """One denoising step from a full-precision state."""

    def __init__(self, method: DiffusionPTQ, compared: str):
        super().__init__(method)
        self.compared, self.needs_full_precision = compared, compared == "output"

    def denoising_steps(self, step: int, first: int) -> range:
        return self.method.shuffled(self.method.single_steps, step - first)

    def evaluations(self, steps: Sequence[int]) -> float:
        return FORWARD_PASSES[self.compared] * self.method.context.model.passes

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        method, sampler = self.method, self.method.sampler
        (i,), start, (z,) = batch["steps"], State(batch["start"], tuple(batch["memory"])), batch["noise"]
        x, t = sampler.network_input(i, start.x), sampler.timesteps[i]
        with held_weights(method.weights):
            output = method.quantized_network(batch)(x, t, i)
            error = F.mse_loss(sampler.step(i, start, output, z).x, batch["end"])
            if self.compared == "output":
                with torch.no_grad():
                    target = method.context.model.network()(batch["condition"])(x, t, i)
                moved = (sampler.step(i, start, target + 1, z).x - sampler.step(i, start, target, z).x).square().mean()
                # moved = b_t^2 scales the output's error to the state's
                error = F.mse_loss(output, target) * moved
            loss = error / max(method.loss_scales[batch["steps"]], 1e-12)
            method.scaler.scale(loss).backward()
        return {"loss": loss.detach()} | method.regularize(method.weights)


def phases(method: DiffusionPTQ) -> list[Phase]:
    section = method.section
    objective = Step(method, section.step_loss)
    return [
        Phase(objective, max(int(section.network_evaluations // objective.evaluations(())), 1), section.learning_rate)
    ]
