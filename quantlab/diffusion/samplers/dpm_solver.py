"""DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, Alg. 2): a multistep solver whose memory is the image predicted in
the previous step.

With lambda = log(sqrt(abar) / sqrt(1 - abar)), h = lambda' - lambda of this step, h_0 of the previous one, r = h_0 / h:

    D  = x_0 + (x_0 - previous x_0) / (2 r)
    x' = sqrt(1 - abar') / sqrt(1 - abar) x - sqrt(abar') (exp(-h) - 1) D

The first step has no memory, and the last one goes to abar' = 1, where h is infinite: there D = x_0. For stability,
walks of fewer than 15 steps use first order in their last step, which is the same step here.
"""

import math

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk


class Sampler(Walk):
    """sampler.name=dpm_solver."""

    memories = 1
    needs_signal = True

    def _log_snr(self, i: int) -> float:
        """lambda before step i."""
        return 0.5 * math.log(self.alphas[i] / (1 - self.alphas[i]))

    def _image_weights(self, i: int) -> tuple[float, float]:
        """The weights of x_0 of this step and of the previous one in x'."""
        there = self.alphas[i + 1]
        if there == 1:
            return 1.0, 0.0
        h = self._log_snr(i + 1) - self._log_snr(i)
        weight = -(there**0.5) * math.expm1(-h)
        if i == 0:
            return weight, 0.0
        share = h / (2 * (self._log_snr(i) - self._log_snr(i - 1)))  # 1 / (2 r)
        return weight * (1 + share), -weight * share

    def memory_weights(self, i: int) -> tuple[float, ...]:
        return (self._image_weights(i)[1],)

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        x0, _ = self.image_and_noise(i, state.x, output)
        now, before = self._image_weights(i)
        x = ((1 - self.alphas[i + 1]) / (1 - self.alphas[i])) ** 0.5 * state.x + now * x0
        return State(x + before * state.memory[0] if before else x, (x0,))
