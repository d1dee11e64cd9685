"""AccuQuant (Lee et al., NeurIPS 2025, arXiv 2510.20348): match the end of a group of denoising steps.

The walk is cut into disjoint groups of M consecutive steps. From a full-precision state x_t at the start of a group,
the quantized network walks on its own states x~ to the group's end, and one loss compares the ends (Fig. 2):

    L = d(x~_{t-M}, x_{t-M})                                                                                       (1)

    dL/dtheta = sum_k (dL/dx~_{t-M}) (dx~_{t-M}/dx~_{t-k}) (dx~_{t-k}/dtheta)_direct                                (2)

`copy` is the paper's approximation: dx~_{t-M}/dx~_{t-k} = I, so that the loss's gradient g is copied to every step and
each step is back-propagated alone. One step's graph is alive at a time: O(1) memory in M. It costs M - 1 forward passes
without a backward pass and M with one: 4 M - 1 forward passes. `exact` keeps (2), in the same memory and at the same
cost, by walking the group backwards: g <- (dx~_k/dx~_{k-1})^T g. `bptt` keeps the whole graph, as a control: O(M)
memory, 3 M forward passes.

What the paper leaves open, chosen here and exposed in the config:
- start: quantizers trained step by step, as in the baseline `step`, with half of the network evaluations. Starting from
  calibrated ranges, the groups would have to do both with few and noisy updates.
- group size M = 5: a quarter of the default 20 steps; the paper says that too large groups hurt.
- distance d: mean squared error, divided by its value for the calibrated ranges in the same group, so that noisy
  groups, whose steps are larger (|b_t|), do not outweigh the others and the rounding regularizer needs no rescaling
  between models.
- order of groups: random, since all groups share the rounding variables; sequential is an option.
- learned: whether each weight is rounded up or down, and the activation scales (one set per group), jointly, with Adam.
  Weight scales and zero points keep their calibrated values (Q-Diffusion).
- rounding: AdaRound's variables with a straight-through estimator by default. Soft AdaRound needs thousands of
  iterations to settle; within the few hundred that a laptop can run, hardening its soft values undoes most of the
  gain.
- iterations 800 + 126, batch 16: under two minutes on two cores, with the baselines' number of network evaluations.
- learning rates of the group phase (results/accuquant_fid_shift.md lists what was tried): for the rounding a tenth of
  the baselines', since with more, a hundred updates with noisy gradients degrade the typical image; for the activation
  scales six times theirs, since the scales have to widen until they cover walks that leave the data.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quantlab.diffusion.samplers import State
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.methods.ptq.objective import Objective, Phase
from quantlab.quantizers.rounding import held_weights

Step = Callable[[int, State], State]  # (index of the step, state) -> next state
Loss = Callable[[Tensor], Tensor]  # (x at the end of the group, [N, C, H, W]) -> scalar
# (index of the step) -> the weights with which the memory that it leaves enters the x of all later steps
MemoryWeights = Callable[[int], tuple[float, ...]]


def simulate(step: Step, steps: Sequence[int], start: State) -> list[State]:
    """The quantized walk through a group, without a graph: M + 1 states, from `start`."""
    states = [start]
    with torch.no_grad():
        for i in steps:
            states.append(step(i, states[-1]))
    return states


def loss_and_gradient(loss: Loss, end: Tensor) -> tuple[Tensor, Tensor]:
    """The loss at the end of the group and g = dL/dx~_{t-M}."""
    end = end.detach().requires_grad_(True)
    value = loss(end)
    (g,) = torch.autograd.grad(value, end)
    return value.detach(), g


def backward(state: State, g: Tensor, memory_cotangents: Sequence[Tensor | None]) -> None:
    """Back-propagate the cotangents g of x and `memory_cotangents` of the remembered tensors (None: zero)."""
    pairs = [
        (state.x, g),
        *((one, cotangent) for one, cotangent in zip(state.memory, memory_cotangents) if cotangent is not None),
    ]
    pairs = [(tensor, cotangent) for tensor, cotangent in pairs if tensor.requires_grad]
    torch.autograd.backward([tensor for tensor, _ in pairs], [cotangent for _, cotangent in pairs])


def copied_gradient(
    step: Step, steps: Sequence[int], start: State, loss: Loss, memory_weights: MemoryWeights = lambda i: ()
) -> Tensor:
    """Add AccuQuant's approximate gradient to .grad (paper Fig. 2, dashed arrows); returns the loss.

    Eq. (2) with dx~_{t-M}/dx~_{t-k} = I: every step gets a copy of g, and no gradient flows through a step's input.
    A step's output also reaches the x of later steps, through the solver's memory and with the weights that
    `memory_weights` gives, inside the group or after it.
    """
    *earlier, last = steps
    states = simulate(step, earlier, start)
    end = step(last, states[-1])  # with a graph: this step is the first to be back-propagated
    value, g = loss_and_gradient(loss, end.x)
    backward(end, g, [weight * g if weight else None for weight in memory_weights(last)])
    for i, state in zip(earlier, states):
        backward(step(i, state), g, [weight * g if weight else None for weight in memory_weights(i)])
    return value


def exact_gradient(
    step: Step, steps: Sequence[int], start: State, loss: Loss, memory_weights: MemoryWeights = lambda i: ()
) -> Tensor:
    """Add the exact gradient (2) to .grad with one step's graph alive at a time; returns the loss.

    Reverse walk with vector-Jacobian products; equals `backpropagated_gradient` up to rounding.
    """
    *earlier, last = steps
    states = simulate(step, earlier, start)
    state = states.pop().detached(needs_gradient=bool(earlier))  # the start needs no gradient
    end = step(last, state)
    value, g = loss_and_gradient(loss, end.x)
    backward(end, g, ())
    for i, before in zip(reversed(earlier), reversed(states)):
        g, memory_cotangents = state.x.grad, [one.grad for one in state.memory]
        state = before.detached(needs_gradient=before is not start)
        backward(step(i, state), g, memory_cotangents)
    return value


def backpropagated_gradient(
    step: Step, steps: Sequence[int], start: State, loss: Loss, memory_weights: MemoryWeights = lambda i: ()
) -> Tensor:
    """Add the exact gradient (2) to .grad by back-propagation through the whole group at once; returns the loss."""
    state = start
    for i in steps:
        state = step(i, state)
    value = loss(state.x)
    value.backward()
    return value.detach()


def forward_passes(gradient: str, steps: int) -> int:
    """The cost of one iteration over a group with that many active steps; a backward pass counts as two."""
    return 3 * steps if gradient == "bptt" else 4 * steps - 1


GRADIENTS = {"copy": copied_gradient, "exact": exact_gradient, "bptt": backpropagated_gradient}
DISTANCES = {"mse": F.mse_loss, "l1": F.l1_loss}


class Group(Objective):
    """The end of a group of denoising steps, Eq. (1)."""

    def denoising_steps(self, step: int, first: int) -> range:
        method, step = self.method, step - first
        if method.section.group_order == "sequential":
            return method.groups[step * len(method.groups) // (method.phase_starts[-1] - first)]
        return method.shuffled(method.groups, step)

    def evaluations(self, steps: Sequence[int]) -> float:
        return forward_passes(self.method.section.gradient, len(steps)) * self.method.context.model.passes

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        method, section, group = self.method, self.method.section, batch["steps"]
        scale = method.loss_scales[group] if section.loss == "mse" else method.loss_scales[group] ** 0.5

        def loss(end: Tensor) -> Tensor:
            return DISTANCES[section.loss](end, batch["end"]) / max(scale, 1e-12)

        steps, start = method.sampler.active(group), State(batch["start"], tuple(batch["memory"]))
        with held_weights(method.weights):
            value = GRADIENTS[section.gradient](
                method.quantized_step(batch), steps, start, loss, method.sampler.memory_weights
            )
        return {"loss": value} | method.regularize(method.weights)


class SingleStep(Group):
    """Each denoising step by itself: groups of one step."""

    def denoising_steps(self, step: int, first: int) -> range:
        return self.method.shuffled(self.method.single_steps, step - first)


class AccuQuant(DiffusionPTQ):
    """method=accuquant."""

    label = "accuquant"

    def make_phases(self) -> list[Phase]:
        section, initialization = self.section, self.section.initialization
        return [
            Phase(SingleStep(self), initialization.iterations, initialization.learning_rate),
            Phase(Group(self), section.iterations, section.learning_rate),
        ]
