"""What one forward pass of a network does with its weights: which layers it calls, which weights it takes past them,
and where it multiplies.

A layer whose `forward` is never called is one that cannot be quantized by replacing it: BEiT's attention computes
`F.linear(x, self.qkv.weight)`, torch's MultiheadAttention does the same with its `out_proj`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from quantlab.quantizers.layer import QuantizedLayer

NORMALIZATIONS = (nn.LayerNorm, nn.RMSNorm)  # their weight may have several dimensions and yet is no matrix


@dataclass
class LayerCalls:
    """Of one pass: calls of the module's forward, products that took its weight while that did not run, and the
    multiply-accumulates of both."""

    calls: int = 0
    direct_uses: int = 0
    multiplications: int = 0


def is_layer(module: nn.Module) -> bool:
    """Whether `module` has a weight matrix: a convolution, a Linear, an Embedding, or one of our layers in its
    place.
    """
    weight = getattr(module, "weight", None)
    return isinstance(module, QuantizedLayer) or (
        isinstance(weight, Tensor) and weight.ndim > 1 and not isinstance(module, NORMALIZATIONS)
    )


def trace_layers(network: nn.Module, forward: Callable[[], Any]) -> dict[str, LayerCalls]:
    """One pass of `network`, which `forward()` makes: in evaluation mode, without gradients; modes, buffers and torch's
    random generators are left as they were.

    Returns by name every layer (`is_layer`), in the order of `named_modules`, whether or not it was called; after them
    what else
    multiplies: other parameters with several dimensions, such as MultiheadAttention's `in_proj_weight`, and modules in
    which two activations meet, such as attention ("" is the network itself). Multiplications are those of torch's
    FlopCounterMode: convolutions and matrix products, for the whole batch. A weight that two layers share counts for
    the first. A direct use is seen where the product takes the weight or a view of it, not a computed copy.
    """
    modules = dict(network.named_modules())
    traced = {name: LayerCalls() for name, module in modules.items() if is_layer(module)}
    others = {name: LayerCalls() for name in modules if name not in traced}
    loose = {
        name: LayerCalls()
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1 and name.rpartition(".")[0] not in traced
    }
    owners = {_storage(network.get_parameter(name)): calls for name, calls in loose.items()}
    for name in traced:
        if isinstance(weight := getattr(modules[name], "weight", None), Tensor):
            owners.setdefault(_storage(weight), traced[name])
    running: list[str] = []

    def enter(name: str) -> None:
        running.append(name)
        (traced.get(name) or others[name]).calls += 1

    def leave(*_: Any) -> None:
        running.pop()

    def count(multiplications: int, operands: list[Tensor]) -> None:
        inside = next((traced[name] for name in reversed(running) if name in traced), None)
        owner = inside or next((owners[key] for key in map(_storage, operands) if key in owners), None)
        if owner is None:
            owner = others[running[-1] if running else ""]
        elif inside is None:
            owner.direct_uses += 1
        owner.multiplications += multiplications

    with ExitStack() as stack:
        stack.enter_context(_left_as_it_was(network))
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(lambda *_, name=name: enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        counter = stack.enter_context(FlopCounterMode(display=False))
        stack.enter_context(_Products(counter, count))
        forward()
    return traced | {name: calls for name, calls in (loose | others).items() if calls.multiplications}


class _Products(TorchDispatchMode):
    """Tells `count` of every operation that multiplies: how often (a FLOP counter that runs outside of it knows)
    and its operands.
    """

    def __init__(self, counter: FlopCounterMode, count: Callable[[int, list[Tensor]], None]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter, self.count = counter, count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        flops = self.counter.get_total_flops() - before
        if flops:
            self.count(flops // 2, [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)])
        return out


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """A pass for looking: evaluation mode, no gradients, no fused attention, which would hide layers and products."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    network.eval()
    for parameter in learned:  # where a module is called with one, the counter would ask for its gradient function
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), sdpa_kernel(SDPBackend.MATH):
            yield
            for buffer, kept in buffers:
                buffer.copy_(kept)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in learned:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def _storage(tensor: Tensor) -> int:
    """What a tensor and its views have in common; of a tensor without memory, as those of a backend written in
    Python, itself.
    """
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return id(tensor)
