"""reconstruction=block: block reconstruction of a diffusion model, as in Q-Diffusion (Li et al., ICCV 2023) and BRECQ
(Li et al., ICLR 2021).

A unit is a residual block, an attention or transformer block, or any other single layer, in the order of the forward
pass. Each is trained so that its output, on inputs from the network quantized so far, matches that of full precision:

    min || u~(x~) - u(x) ||^2 + lambda f(V),     x~, x: the unit's input in the quantized / full-precision network

Both networks are fed full-precision states x_t of the calibration trajectories. Our choices: rounding and activation
scales are learned jointly instead of one after the other; learning rates and annealing restart for each unit; inputs
are collected on `calibration.range_samples` trajectories; a block of joint attention is trained on both of its outputs,
image and text. The budget includes everything: an iteration of a unit costs its share of three passes, and collecting
its inputs costs two passes that end at the unit, one in each network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.methods.ptq.objective import Objective, Phase
from quantlab.models.diffusers_denoiser import reconstruction_units
from quantlab.quantizers.rounding import learned_roundings

LABEL = "block"
NUMBERS_AT_ONCE = 2**27


class _StopForward(Exception):
    """Ends a forward pass once the unit's inputs are captured."""


def forward_order(unet: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Names of the units in the order in which one forward pass, `forward()`, calls them."""
    blocks = reconstruction_units(unet)
    layers = [name for name, module in unet.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    alone = [name for name in layers if not any(name.startswith(f"{block}.") for block in blocks)]
    called: list[str] = []

    def note(name: str):
        return lambda module, args: called.append(name)

    hooks = [unet.get_submodule(name).register_forward_pre_hook(note(name)) for name in blocks + alone]
    with torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(called))


@torch.no_grad()
def capture(unit: nn.Module, run) -> tuple[tuple, dict, tuple[Tensor, ...]]:
    """Positional arguments, keyword arguments and outputs of `unit` in the forward pass `run()`."""
    seen = []

    def hook(module, args, kwargs, output):
        seen.append((args, kwargs, outputs_of(output)))
        raise _StopForward

    handle = unit.register_forward_hook(hook, with_kwargs=True)
    try:
        run()
    except _StopForward:
        pass
    finally:
        handle.remove()
    return seen[0]


def outputs_of(output) -> tuple[Tensor, ...]:
    """What a unit makes, as a tuple: mostly one tensor; two, of text and image, where attention is joint."""
    return (output,) if isinstance(output, Tensor) else tuple(one for one in output if isinstance(one, Tensor))


def each(change: Callable[[Tensor], Tensor], arguments):
    """`arguments` (a tuple or dict) with each tensor changed; what is inside others, as positions, is of no walk."""
    if isinstance(arguments, dict):
        return {name: change(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    return tuple(change(value) if isinstance(value, Tensor) else value for value in arguments)


def joined(parts: list):
    """Tuples or dicts of the same structure, with tensors concatenated along the batch."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: _join([part[name] for part in parts]) for name in first}
    return tuple(_join(list(values)) for values in zip(*parts))


def _join(values: list):
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]


def mean_squared_error(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Over all numbers of all outputs; a scalar."""
    if len(outputs) == 1:
        return F.mse_loss(outputs[0], targets[0])
    total = sum(target.numel() for target in targets)
    return sum(F.mse_loss(output, target, reduction="sum") for output, target in zip(outputs, targets)) / total


class Block(Objective):
    """The output of one unit, on inputs from the network quantized so far.

    collection_cost: network evaluations that it takes to collect a unit's inputs in both networks.
    """

    def __init__(self, method: DiffusionPTQ, names: list[str], unit: int, collection_cost: float):
        super().__init__(method)
        self.names, self.unit, self.collection_cost = names, unit, collection_cost
        self.collected: dict[range, tuple] | None = None
        self.loss_scales: dict[range, float] = {}

    def start(self) -> None:
        """A loss of 1 is the unit's error before its training."""
        self.prepare()
        self.method.network_evaluations += self.collection_cost
        with torch.no_grad():
            self.loss_scales = {group: self.whole_error(group) for group in self.method.groups}

    def prepare(self) -> None:
        """Fix the preceding units and collect this one's inputs and targets for every group of denoising steps, in
        main memory. The full-precision network is not asked for afterwards.

        Neither depends on the unit itself, so they stay the same while it is trained.
        """
        if self.collected is not None:
            return
        method, name = self.method, self.names[self.unit]
        if method.weights:
            for finished in self.names[: self.unit]:
                for weight in learned_roundings(method.quantized.unet.get_submodule(finished)):
                    weight.settle()
        self.module = method.quantized.unet.get_submodule(name)
        original = method.context.model.unet.get_submodule(name)
        sampler, trajectories, device = method.sampler, method.dataset.trajectories, method.context.device
        samples, batch_size = method.section.calibration.range_samples, method.context.task.evaluation.batch_size
        quantized, exact = method.quantized.network, method.context.model.unguided()
        self.collected = {}
        for group in method.groups:
            seen = []
            for i in sampler.active(group):
                for rows in trajectories.batches(samples, batch_size):
                    condition = trajectories.condition_of(rows, device)
                    x, t = sampler.network_input(i, trajectories.state(i, rows).x.to(device)), sampler.timesteps[i]
                    args, kwargs, _ = capture(self.module, lambda: quantized(condition)(x, t, i))
                    targets = capture(original, lambda: exact(condition)(x, t, i))[2]
                    seen.append([each(Tensor.cpu, part) for part in (args, kwargs, targets)])
            self.collected[group] = tuple(joined(list(parts)) for parts in zip(*seen))
        method.context.model.release()

    def end(self) -> None:
        self.collected = None

    def denoising_steps(self, step: int, first: int) -> range:
        return self.method.shuffled(self.method.groups, step)

    def evaluations(self, steps: Sequence[int]) -> float:
        return 3 / len(self.names)  # on average over the units

    def error(self, group: range, rows: Tensor | slice) -> Tensor:
        """Mean squared error of the unit's output on `rows` of the inputs collected for `group`; a scalar."""
        device = self.method.context.device
        args, kwargs, targets = (each(lambda one: one[rows].to(device), part) for part in self.collected[group])
        self.method.quantized.pointer.index = group.start // self.method.section.group_size
        return mean_squared_error(outputs_of(self.module(*args, **kwargs)), targets)

    def whole_error(self, group: range) -> float:
        """`error` on all inputs, as many at a time as have NUMBERS_AT_ONCE numbers of output."""
        targets = self.collected[group][2]
        count = len(targets[0])
        size = max(1, NUMBERS_AT_ONCE // sum(target[0].numel() for target in targets))
        batches = [slice(first, min(first + size, count)) for first in range(0, count, size)]
        return sum(float(self.error(group, rows)) * ((rows.stop - rows.start) / count) for rows in batches)

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        method, group = self.method, batch["steps"]
        available = len(self.collected[group][2][0])
        wanted = min(method.section.batch_size, available)
        rows = method.shared(torch.randint(available, (wanted,)))
        loss = self.error(group, rows) / max(self.loss_scales[group], 1e-12)
        if loss.requires_grad:
            method.scaler.scale(loss).backward()
        weights = learned_roundings(self.module) if method.weights else []
        return {"loss": loss.detach()} | method.regularize(weights)

    def state_dict(self) -> dict:
        return {"loss_scales": [self.loss_scales[group] for group in self.method.groups]}

    def load_state_dict(self, state: dict) -> None:
        self.loss_scales = dict(zip(self.method.groups, state["loss_scales"]))


def phases(method: DiffusionPTQ) -> list[Phase]:
    """One phase per unit. Raises RequestError if collecting the units' inputs uses up the budget."""
    section, context, sampler = method.section, method.context, method.sampler
    model, probe = context.model, torch.zeros(1, *context.model.shape, device=context.device)
    model.prepare(context.cache, context.device)
    condition = {name: value.to(context.device) for name, value in model.condition(1, 0).items()}
    names = forward_order(model.unet, lambda: model.unguided()(condition)(probe, 0, 0))
    batches = len(sampler.active(range(len(sampler)))) * section.calibration.range_samples / section.batch_size
    # Two passes that end at the unit, each on average over half of the network
    collection_cost = batches * (len(names) + 1) / len(names)
    left = section.network_evaluations - collection_cost * len(names)
    per_unit = int(left // 3)  # one forward and backward pass of all units together is one of the network
    if per_unit < 1:
        raise RequestError(
            f"method.network_evaluations: got {section.network_evaluations}; collecting the inputs of {len(names)} "
            f"blocks takes {collection_cost * len(names):.0f}; allowed: more than that, or fewer "
            "method.calibration.range_samples"
        )
    return [
        Phase(Block(method, names, unit, collection_cost), per_unit, section.learning_rate)
        for unit in range(len(names))
    ]
