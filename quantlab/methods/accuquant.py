"""AccuQuant (Lee et al., NeurIPS 2025, arXiv 2510.20348): match the end of a group of denoising steps.

The walk is cut into disjoint groups of M consecutive steps. From a full-precision state x_t at the start of a group,
the quantized network walks on its own states x~ to the group's end, and one loss compares the ends (Fig. 2):

    L = d(x~_{t-M}, x_{t-M})                                                                                       (1)

    dL/dtheta = sum_k (dL/dx~_{t-M}) (dx~_{t-M}/dx~_{t-k}) (dx~_{t-k}/dtheta)_direct                                (2)

`copy` is the paper's approximation: dx~_{t-M}/dx~_{t-k} = I, so that the loss's gradient g is copied to every step and
each step is back-propagated alone. One step's graph is alive at a time: O(1) memory in M. It costs M - 1 forward passes
without a backward pass and M with one: 4 M - 1 forward passes, 3.8 a step at M = 5. `exact` keeps (2), in the same
memory and at the same cost, by walking the group backwards: g <- (dx~_k/dx~_{k-1})^T g. With `keep_graphs` K steps'
graphs stay in memory from the walk on, which saves K - 1 forward passes more and changes no bit. `bptt` keeps the whole
graph, as a control: O(M) memory, 3 M forward passes.

What the paper leaves open, chosen here and exposed in the config:
- start: quantizers trained step by step, as in the baseline `step`, with half of the network evaluations. Starting from
  calibrated ranges, the groups would have to do both with few and noisy updates.
- group size M = 5: a quarter of the default 20 steps; the paper says that too large groups hurt.
- distance d: mean squared error, divided by its value for the calibrated ranges in the same group, so that noisy
  groups, whose steps are larger (|b_t|), do not outweigh the others and the rounding regularizer needs no rescaling
  between models.
- order of groups: random, since all groups share the rounding variables. `sequential` learns one group after the
  other, from noise to image, each with learning rates of its own: for activation scales alone, which no two groups
  share.
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

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quantlab.diffusion.samplers import State
from quantlab.methods.kept_graphs import graphs_that_fit
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.methods.ptq.objective import Objective, Phase
from quantlab.quantizers.rounding import held_weights

Step = Callable[[int, State], State]  # (index of the step, state) -> next state
Loss = Callable[[Tensor], Tensor]  # (x at the end of the group, [N, C, H, W]) -> scalar
# (index of the step) -> the weights with which the memory that it leaves enters the x of all later steps
MemoryWeights = Callable[[int], tuple[float, ...]]


def simulate(
    step: Step, steps: Sequence[int], start: State, graphs: int = 1, through_states: bool = False
) -> tuple[list[State], dict[int, State]]:
    """The quantized walk through a group: the M states before its steps, from `start`, and by number of the step (0 to
    M - 1) the results of the last `graphs` of them, with their graphs. The others have none.

    through_states: their gradients reach the state before the step too, but not `start`.
    """
    before, after = [start], {}
    for number, i in enumerate(steps):
        if number < len(steps) - graphs:
            with torch.no_grad():
                end = step(i, before[-1])
        else:
            before[-1] = before[-1].detached(needs_gradient=through_states and number > 0)
            after[number] = end = step(i, before[-1])
        before.append(end.detached())
    return before[:-1], after


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
    step: Step,
    steps: Sequence[int],
    start: State,
    loss: Loss,
    memory_weights: MemoryWeights = lambda i: (),
    graphs: int = 1,
) -> Tensor:
    """Add AccuQuant's approximate gradient to .grad (paper Fig. 2, dashed arrows); returns the loss.

    Eq. (2) with dx~_{t-M}/dx~_{t-k} = I: every step gets a copy of g, and no gradient flows through a step's input.
    A step's output also reaches the x of later steps, through the solver's memory and with the weights that
    `memory_weights` gives, inside the group or after it. graphs: of how many steps the graph is alive at a time.
    """
    before, after = simulate(step, steps, start, graphs)
    last = len(steps) - 1
    value, g = loss_and_gradient(loss, after[last].x)
    for number in (last, *range(last)):  # the same sums, however many graphs were kept
        i = steps[number]
        end = after.pop(number) if number in after else step(i, before[number])
        backward(end, g, [weight * g if weight else None for weight in memory_weights(i)])
    return value


def exact_gradient(
    step: Step,
    steps: Sequence[int],
    start: State,
    loss: Loss,
    memory_weights: MemoryWeights = lambda i: (),
    graphs: int = 1,
) -> Tensor:
    """Add the exact gradient (2) to .grad with `graphs` steps' graphs alive at a time; returns the loss.

    Reverse walk with vector-Jacobian products; equals `backpropagated_gradient` up to rounding.
    """
    before, after = simulate(step, steps, start, graphs, through_states=True)
    last = len(steps) - 1
    value, g = loss_and_gradient(loss, after[last].x)
    memory_cotangents: list[Tensor | None] = []
    for number in range(last, -1, -1):
        state = before[number]
        if number in after:
            end = after.pop(number)
        else:
            state = state.detached(needs_gradient=number > 0)
            end = step(steps[number], state)
        backward(end, g, memory_cotangents)
        g, memory_cotangents = state.x.grad, [one.grad for one in state.memory]
    return value


def backpropagated_gradient(
    step: Step,
    steps: Sequence[int],
    start: State,
    loss: Loss,
    memory_weights: MemoryWeights = lambda i: (),
    graphs: int = 1,
) -> Tensor:
    """Add the exact gradient (2) to .grad by back-propagation through the whole group at once; returns the loss."""
    state = start
    for i in steps:
        state = step(i, state)
    value = loss(state.x)
    value.backward()
    return value.detach()


def forward_passes(gradient: str, steps: int, graphs: int = 1) -> int:
    """The cost of one iteration over a group with that many active steps; a backward pass counts as two."""
    return 3 * steps if gradient == "bptt" else 4 * steps - min(graphs, steps)


GRADIENTS = {"copy": copied_gradient, "exact": exact_gradient, "bptt": backpropagated_gradient}
DISTANCES = {"mse": F.mse_loss, "l1": F.l1_loss}


class Group(Objective):
    """The ends of groups of denoising steps, Eq. (1), each in turn."""

    def __init__(self, method: DiffusionPTQ, groups: Sequence[range], words: str):
        super().__init__(method)
        self.groups, self.words = list(groups), words
        kept, gradient = method.section.keep_graphs, method.section.gradient
        # None: as many as fit, to be found
        self.graphs: int | None = 1 if gradient == "bptt" else None if kept == "auto" else kept

    def denoising_steps(self, step: int, first: int) -> range:
        return self.method.shuffled(self.groups, step - first)

    def evaluations(self, steps: Sequence[int]) -> float:
        passes = forward_passes(self.method.section.gradient, len(steps), self.graphs or 1)
        return passes * self.method.context.model.passes

    def graphs_of(self, step: Step, steps: Sequence[int], start: State) -> int:
        """Of how many steps the graph is kept; with keep_graphs=auto found at the first group of several steps."""
        if self.graphs is None and len(steps) > 1:
            unet = self.method.quantized.unet
            held = [weight.held for weight in self.method.weights if weight.held is not None]
            anyway = (*unet.parameters(), *unet.buffers(), *held)
            self.graphs = graphs_that_fit(lambda: step(steps[0], start), anyway, self.method.context.device)
        return min(self.graphs or 1, len(steps))

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        method, section, group = self.method, self.method.section, batch["steps"]
        scale = method.loss_scales[group] if section.loss == "mse" else method.loss_scales[group] ** 0.5

        def loss(end: Tensor) -> Tensor:
            return method.scaler.scale(DISTANCES[section.loss](end, batch["end"]) / max(scale, 1e-12))

        steps, start = method.sampler.active(group), State(batch["start"], tuple(batch["memory"]))
        with held_weights(method.weights):
            step = method.quantized_step(batch)
            graphs = self.graphs_of(step, steps, start)
            value = GRADIENTS[section.gradient](step, steps, start, loss, method.sampler.memory_weights, graphs)
        return {"loss": value / method.scaler.get_scale()} | method.regularize(method.weights)


class AccuQuant(DiffusionPTQ):
    """method=accuquant."""

    label = "accuquant"

    def make_phases(self) -> list[Phase]:
        """First single steps, then groups: all at once in random order, or one after the other, each a phase."""
        section, initialization = self.section, self.section.initialization
        first = Group(self, self.single_steps, "single steps")
        learned = [Phase(first, initialization.iterations, initialization.learning_rate)]
        if section.group_order == "random":
            return [*learned, Phase(Group(self, self.groups, "groups"), section.iterations, section.learning_rate)]
        ends = [section.iterations * done // len(self.groups) for done in range(len(self.groups) + 1)]
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            group = Group(self, [self.groups[number]], f"group {number + 1}")
            learned.append(Phase(group, end - start, section.learning_rate))
        return learned
