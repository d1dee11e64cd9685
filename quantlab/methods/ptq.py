"""Step-by-step post-training quantization of a diffusion model: what AccuQuant is compared with.

`none`   calibrated ranges only.
`step`   the result of each denoising step alone, from full-precision states: AccuQuant with groups of one step.
`block`  block by block, as Q-Diffusion does (see `block_reconstruction`).

All share AccuQuant's quantizers, calibration trajectories, activation scales per group, optimizer, regulariser and schedule,
and the same budget of network evaluations.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from quantlab.diffusion.samplers import State
from quantlab.methods.base import RunContext
from quantlab.methods.block_reconstruction import BlockReconstruction
from quantlab.methods.diffusion_ptq import DiffusionPTQ


class RangesOnly(DiffusionPTQ):
    """reconstruction=none: nothing is learned."""

    label = "ranges only"

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.steps = 0

    def make_learnable(self) -> None:
        self.weights, self.is_soft, self.optimizer = [], False, None


class StepReconstruction(DiffusionPTQ):
    """reconstruction=step.

    step_loss `state` compares x_t', so that steps weigh as they move the state (|b_t|); `output` compares the network's output, for
    which full precision is evaluated again. Both are divided by what they are for the calibrated ranges.
    """

    label = "step"
    forward_passes = {"state": 3, "output": 4}      # per iteration; a backward pass counts two

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.cost_of_step = self.forward_passes[section.step_loss] * context.model.passes
        self.steps = max(section.network_evaluations // self.cost_of_step, 1)

    def simulated(self, step: int) -> range:
        return self.shuffled(self.single_steps, step)

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        (i,), start = batch["steps"], State(batch["start"], tuple(batch["memory"]))
        x, t, (z,) = self.sampler.network_input(i, start.x), self.sampler.timesteps[i], batch["noise"]
        output = self.quantized_network(batch)(x, t, i)
        error = F.mse_loss(self.sampler.step(i, start, output, z).x, batch["end"])
        if self.section.step_loss == "output":
            with torch.no_grad():
                target = self.context.model.network()(batch["condition"])(x, t, i)
            moved = (self.sampler.step(i, start, target + 1, z).x - self.sampler.step(i, start, target, z).x).square().mean()
            error = F.mse_loss(output, target) * moved      # moved = b_t^2 brings the output's error to the unit of the state's
        loss = error / max(self.units[batch["steps"]], 1e-12)
        loss.backward()
        self.spent += self.cost_of_step
        return {"loss": loss.detach()} | self.regularize(self.weights)


RECONSTRUCTIONS = {"none": RangesOnly, "step": StepReconstruction, "block": BlockReconstruction}


def build_ptq(section, context: RunContext) -> DiffusionPTQ:
    """method=ptq: the method that `section.reconstruction` names."""
    return RECONSTRUCTIONS[section.reconstruction](section, context)
