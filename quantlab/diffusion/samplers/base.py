"""Base of all samplers: a walk from noise to image, as a pure function from one state to the next.

A sampler is a file named after its value of `model.sampler.name` that defines `Sampler`, a subclass of `Walk`. Nothing
else is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.prediction import IMAGE, image_and_noise
from quantlab.errors import RequestError

# abar and sigma where a walk starts from pure noise and its solver needs some signal, as in diffusers' schedulers
LEAST_ALPHA = 2.0**-24
MOST_SIGMA = 1 - 1e-6

W = TypeVar("W", bound="Walk")


class State(NamedTuple):
    """The state of a walk: x [N, C, H, W], in the sampler's own scale, and the solver's memory of earlier steps:
    tensors of x's shape, the same number at every step.
    """

    x: Tensor
    memory: tuple[Tensor, ...] = ()

    def detached(self, needs_gradient: bool = False) -> "State":
        """The same values without a graph, as leaves that accumulate gradients if `needs_gradient`."""
        x, *memory = (one.detach().requires_grad_(needs_gradient) for one in (self.x, *self.memory))
        return State(x, tuple(memory))

    def on(self, device: torch.device | str) -> "State":
        return State(self.x.to(device), tuple(one.to(device) for one in self.memory))


def spaced_timesteps(train_timesteps: int, steps: int, spacing: str) -> list[int]:
    """The walk's timesteps from noise to image, `steps` integers, not increasing.

    uniform: multiples of train_timesteps // steps from 0 (DDIM's "uniform", diffusers' "leading").
    trailing: from the last one down in steps of train_timesteps / steps (Lin et al. 2024, Table 2, as diffusers rounds
        it).
    linspace: from the last one to 0, both included, rounded (the same table).
    quadratic: int(linspace(0, sqrt(0.8 train_timesteps), steps)^2) (DDIM's "quad", Q-Diffusion's CIFAR-10).
        With many steps, small timesteps repeat; those steps are skipped (t' = t).
    """
    if spacing == "uniform":
        ascending = [i * (train_timesteps // steps) for i in range(steps)]
    elif spacing == "trailing":
        return [round(t) - 1 for t in np.arange(train_timesteps, 0, -train_timesteps / steps).tolist()]
    elif spacing == "linspace":
        ascending = np.linspace(0, train_timesteps - 1, steps).round().astype(int).tolist()
    else:
        ascending = [int(root * root) for root in np.linspace(0, (0.8 * train_timesteps) ** 0.5, steps)]
    return ascending[::-1]


@dataclass(frozen=True)
class Walk:
    """timesteps[i]: t of step i, as the network gets it; levels[i]: the noise before step i; ends[i]: the noise that it
    leads to, mostly levels[i + 1]. Noise is given as abar, of a flow as sigma (`prediction.signal_and_noise`).

    prediction: what the network outputs, one of `prediction.KINDS`. eta: scale of the noise that a step adds, for
        samplers that can add noise.
    clip_sample: clamp the predicted image to [-clip_range, clip_range] at every step.
    start_scale: standard deviation of the state before the first step.
    """

    timesteps: tuple[float, ...]
    levels: tuple[float, ...]
    ends: tuple[float, ...]
    eta: float = 0.0
    clip_sample: bool = False
    prediction: str = "epsilon"
    clip_range: float = 1.0
    start_scale: float = 1.0

    needs_signal = False  # whether it cannot start from pure noise, abar = 0
    processes: ClassVar[tuple[str, ...]] = ("diffusion",)  # that it solves: diffusion, flow

    @classmethod
    def build(cls: type[W], levels: Tensor, sampler: Any, prediction: str = "epsilon") -> W:
        """From the noise of every training timestep (abar, of a flow sigma; float [train_timesteps]) and a config's
        `sampler` section.

        Raises: RequestError for a solver with memory on timesteps that repeat, and for a flow whose walk would start
        from a state with an image in it.
        """
        if prediction == "flow" and sampler.spacing not in ("trailing", "linspace"):
            raise RequestError(
                f"model.sampler.spacing: got {sampler.spacing}, but a flow's walk starts from pure noise, allowed:"
                " trailing, linspace; type model.sampler.spacing=trailing"
            )
        timesteps: list[float] = [*spaced_timesteps(len(levels), sampler.steps, sampler.spacing)]
        before = [float(levels[int(t)]) for t in timesteps]
        if prediction == "flow":
            before = [shifted(sigma, sampler.shift) for sigma in before]
            timesteps = [sigma * len(levels) for sigma in before]
        if cls.needs_signal:
            before = [min(one, MOST_SIGMA) if prediction == "flow" else max(one, LEAST_ALPHA) for one in before]
        walk = cls(
            tuple(timesteps),
            tuple(before),
            (*before[1:], IMAGE[prediction]),
            sampler.eta,
            sampler.clip_sample,
            prediction,
        )
        if walk.memories and len(set(timesteps)) < len(timesteps):
            raise RequestError(
                f"model.sampler.spacing: got {sampler.spacing}, which repeats timesteps in {sampler.steps} steps, and "
                f"model.sampler.name={sampler.name} uses earlier steps, allowed: uniform, trailing, linspace; type "
                "model.sampler.spacing=trailing"
            )
        return walk

    def __len__(self) -> int:
        return len(self.timesteps)

    # what a sampler defines --------------------------------------------------------------------------------
    @property
    def memories(self) -> int:
        """Number of tensors in the solver's memory."""
        return 0

    def start(self, noise: Tensor) -> State:
        """The state before the first step, from standard normal noise [N, C, H, W]."""
        x = noise if self.start_scale == 1 else noise * self.start_scale
        return State(x, tuple(noise.new_zeros(noise.shape) for _ in range(self.memories)))

    def network_input(self, i: int, x: Tensor) -> Tensor:
        """The network's input at step i, for the state's x."""
        return x

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        """The state after step i; output: the network's output at this state; z: standard normal noise, required if
        `noise_scale(i)` is positive.
        """
        raise NotImplementedError  # every sampler's own

    def noise_scale(self, i: int) -> float:
        """Standard deviation of the noise that step i adds."""
        return 0.0

    # derived from that ------------------------------------------------------------------------------------------
    def image_and_noise(self, i: int, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 (clamped if `clip_sample`) and eps at step i, for x = signal x_0 + noise eps."""
        x0, eps = image_and_noise(self.prediction, output, x, self.levels[i])
        return x0.clamp(-self.clip_range, self.clip_range) if self.clip_sample else x0, eps

    def with_noise(self, i: int, x: Tensor, z: Tensor | None) -> State:
        """The state after step i from its deterministic part x and its standard normal noise z."""
        sigma = self.noise_scale(i)
        if sigma == 0:
            return State(x)
        assert z is not None, f"step {i} adds noise"
        return State(x + sigma * z)

    def output_weight(self, i: int) -> float:
        """b of step i: d x_{i+1} / d output, one number, since a step is linear in the output (but for `clip_sample`,
        which is left out).
        """
        return float(self._unit_step(i, output=True).x)

    def memory_weights(self, i: int) -> tuple[float, ...]:
        """The weights with which the memory that step i leaves enters the x of all later steps, summed: for each tensor
        sum_j d x_{j+1} / d memory over j > i, one number, with dx_{k+1} / dx_k = I between steps.
        """
        return _memory_weights(self)[i]

    def _unit_step(self, i: int, memory: int | None = None, output: bool = False) -> State:
        """Step i of the output alone, or of one tensor in memory alone, as numbers (float64, of no dimensions): one
        column of the linear map that a step is.
        """
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        state = State(zero, tuple(one if k == memory else zero for k in range(self.memories)))
        return replace(self, clip_sample=False).step(i, state, one if output else zero, zero)

    def is_skipped(self, i: int) -> bool:
        """Whether step i is skipped because it ends at the timestep where it starts (t' = t)."""
        return self.levels[i] == self.ends[i]

    def groups(self, group_size: int) -> list[range]:
        """The walk divided into consecutive groups of `group_size` steps, noise to image; the last may be shorter."""
        return [range(i, min(i + group_size, len(self))) for i in range(0, len(self), group_size)]

    def active(self, steps: Sequence[int]) -> list[int]:
        """Those of `steps` that are not skipped."""
        return [i for i in steps if not self.is_skipped(i)]


@cache
def _memory_weights(walk: Walk) -> tuple[tuple[float, ...], ...]:
    """`Walk.memory_weights` of every step, from the last to the first: what enters the next x directly, and what the
    next memory keeps of it.
    """
    weights: list[tuple[float, ...]] = [(0.0,) * walk.memories]
    for i in range(len(walk) - 1, 0, -1):
        kept = [walk._unit_step(i, memory=k) for k in range(walk.memories)]
        later = [sum(w * float(one) for w, one in zip(weights[-1], state.memory)) for state in kept]
        weights.append(tuple(float(state.x) + rest for state, rest in zip(kept, later)))
    return tuple(reversed(weights))


def shifted(sigma: float, shift: float) -> float:
    """sigma of a flow, moved towards the noise for larger images (Esser et al., ICML 2024, Eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_k weights[k] tensors[k] over as many as there are weights; what weighs nothing is left out."""
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:]):
        if weight:
            total = total + weight * tensor
    return total
