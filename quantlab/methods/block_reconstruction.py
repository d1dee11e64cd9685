"""Block reconstruction of a diffusion model, as Q-Diffusion (Li et al., ICCV 2023) and BRECQ (Li et al., ICLR 2021) do it.

Units are residual blocks and attention blocks, and every other layer by itself, in the order of the forward pass. Each is
trained so that its output, on inputs from the network quantized so far, matches the full-precision output:

    min || u~(x~) - u(x) ||^2 + lambda f(V),     x~, x: the unit's input in the quantized / full-precision network

Both networks are fed full-precision states x_t of the calibration trajectories. What we chose: rounding and activation scales
are learned jointly, not one after the other; learning rates and annealing run once per unit; inputs are collected on
`calibration.range_samples` trajectories. The budget counts everything: an iteration of a unit costs its share of three
passes, and collecting its inputs in both networks two passes that end at the unit.
"""

import bisect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError
from quantlab.methods.base import RunContext
from quantlab.methods.diffusion_ptq import DiffusionPTQ
from quantlab.models.diffusers_denoiser import network_of, reconstruction_units
from quantlab.quantizers import wrap


class _Reached(Exception):
    """Ends a forward pass at the unit whose inputs were wanted."""


def forward_order(unet: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Names of the units in the order in which one forward pass of the network, `forward()`, calls them."""
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
def capture(unit: nn.Module, run) -> tuple[tuple, dict, Tensor]:
    """Positional arguments, keyword arguments and output of `unit` in the forward pass that `run()` makes."""
    seen = []

    def hook(module, args, kwargs, output):
        seen.append((args, kwargs, output))
        raise _Reached

    handle = unit.register_forward_hook(hook, with_kwargs=True)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def rows_of(arguments, rows: Tensor):
    """`arguments` (a tuple or dict) with those rows of every tensor in it."""
    if isinstance(arguments, dict):
        return {name: value[rows] if isinstance(value, Tensor) else value for name, value in arguments.items()}
    return tuple(value[rows] if isinstance(value, Tensor) else value for value in arguments)


def joined(parts: list):
    """Tuples or dicts of one shape, their tensors concatenated along the batch."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: _join([part[name] for part in parts]) for name in first}
    return tuple(_join(list(values)) for values in zip(*parts))


def _join(values: list):
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]


class BlockReconstruction(DiffusionPTQ):
    """reconstruction=block."""

    label = "block"

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        task = context.task
        probe = torch.zeros(1, task.channels, task.image_size, task.image_size, device=context.device)
        told = {name: value.to(context.device) for name, value in context.model.condition(1, 0).items()}
        self.names = forward_order(context.model.unet, lambda: network_of(context.model.unet)(told)(probe, 0, 0))
        batches = len(self.sampler.moving(range(len(self.sampler)))) * section.calibration.range_samples / section.batch_size
        # Two passes that end at the unit: on average half of the network each, over all units.
        self.collecting = batches * (len(self.names) + 1) / len(self.names)
        left = section.network_evaluations - self.collecting * len(self.names)
        per_unit = int(left // 3)       # forward and backward of all units together are one of the network
        if per_unit < 1:
            raise RequestError(
                f"method.network_evaluations: got {section.network_evaluations}; collecting the inputs of {len(self.names)} "
                f"blocks takes {self.collecting * len(self.names):.0f}; allowed: more than that, or fewer "
                "method.calibration.range_samples")
        self.steps = per_unit * len(self.names)
        self.unit: int | None = None        # that is being trained, and what was collected for it
        self.collected: dict | None = None

    def build(self, total_steps: int) -> None:
        # A trainer that cuts the run short shortens all units alike. The step that each begins with, and the end:
        self.begins = [unit * total_steps // len(self.names) for unit in range(len(self.names) + 1)]
        super().build(total_steps)

    def unit_of(self, step: int) -> int:
        return bisect.bisect_right(self.begins, step) - 1

    def progress(self, step: int) -> float:
        begin, end = self.begins[self.unit_of(step) :][:2]
        return (step - begin) / (end - begin)

    def before_step(self, step: int) -> None:
        super().before_step(step)
        if (unit := self.unit_of(step)) != self.unit:
            self.unit = unit
            self.enter()
        elif self.collected is None:
            self.collect()      # a run that goes on inside a unit: it had entered before

    def enter(self) -> None:
        """Begin with the present unit: a loss of 1 is its error as it is now."""
        self.collect()
        self.spent += self.collecting
        with torch.no_grad():
            self.units = {group: float(self.error(group, slice(None))) for group in self.groups}

    def collect(self) -> None:
        """Fix the units before the present one and collect its inputs and targets for every group of denoising steps.

        Neither depends on the unit itself, so that they are the same at any time while it is trained.
        """
        name = self.names[self.unit]
        if self.weights:
            for finished in self.names[: self.unit]:
                for weight in wrap.quantized_weights(self.quantized.unet.get_submodule(finished)):
                    weight.settle()
        self.module = self.quantized.unet.get_submodule(name)
        original = self.context.model.unet.get_submodule(name)
        rows, device = slice(self.section.calibration.range_samples), self.context.device
        trajectories = self.dataset.trajectories
        condition = trajectories.told(rows, device)
        quantized, exact = self.quantized.network(condition), network_of(self.context.model.unet)(condition)
        self.collected = {}
        for group in self.groups:
            inputs, targets = [], []
            for i in self.sampler.moving(group):
                x, t = self.sampler.network_input(i, trajectories.state(i, rows).x.to(device)), self.sampler.timesteps[i]
                inputs.append(capture(self.module, lambda: quantized(x, t, i))[:2])
                targets.append(capture(original, lambda: exact(x, t, i))[2])
            args, kwargs = joined([a for a, _ in inputs]), joined([k for _, k in inputs])
            self.collected[group] = (args, kwargs, torch.cat(targets))

    def error(self, group: range, rows: Tensor | slice) -> Tensor:
        """Mean squared error of the unit's output on those `rows` of what was collected for `group`; a scalar."""
        args, kwargs, target = self.collected[group]
        self.quantized.pointer.index = group.start // self.section.group_size
        return F.mse_loss(self.module(*rows_of(args, rows), **rows_of(kwargs, rows)), target[rows])

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        group = batch["steps"]
        available = len(self.collected[group][2])
        wanted = min(self.section.batch_size, available)
        rows = torch.randint(available, (wanted,)).to(self.context.device)
        loss = self.error(group, rows) / max(self.units[group], 1e-12)
        if loss.requires_grad:
            loss.backward()
        self.spent += 3 / len(self.names)   # on average over the units
        weights = wrap.quantized_weights(self.module) if self.weights else []
        return {"loss": loss.detach()} | self.regularize(weights)

    def state_dict(self) -> dict:
        return super().state_dict() | {"unit": self.unit, "units": [self.units[group] for group in self.groups]}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.unit, self.collected = state["unit"], None
        self.units = dict(zip(self.groups, state["units"]))
