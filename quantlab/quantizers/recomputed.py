"""Tensors that a backward pass makes again instead of keeping them, where the weights alone fill the memory.

A product keeps both of its operands for the backward pass. A quantized one takes a few elementwise operations to make
again, from codes of a quarter of its size, or from an input that is kept anyway. The bits are the same.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from quantlab.errors import RunError

Make = Callable[[], Tensor]


class Source(NamedTuple):
    """How a tensor is made, and the version of what it is made of."""

    make: Make
    of: Tensor
    version: int


class Again:
    """What is kept of a tensor: how to make it, and which view of that it was."""

    def __init__(self, source: Source, view: Tensor):
        self.source, self.geometry = source, (view.shape, view.stride(), view.storage_offset())

    def tensor(self) -> Tensor:
        make, of, version = self.source
        if of._version != version:
            raise RunError("backward pass: a quantizer's input was changed in place after it was quantized")
        return make().as_strided(*self.geometry)


# By address the tensors that can be made again, as long as they are there
_made: dict[int, tuple["weakref.ref[Tensor]", Source]] = {}
_depth = 0  # of `recomputed` blocks


@contextmanager
def recomputed() -> Iterator[None]:
    """Graphs that are built inside the block keep no tensor that `made_by` was told of. Their backward pass is to run
    inside it, too.
    """
    global _depth
    _depth += 1
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _depth -= 1


def made_by(make: Make, value: Tensor, of: Tensor) -> Tensor:
    """`value`, which `make()` would give again, bit for bit and laid out alike, as long as `of` is not changed."""
    if _depth and torch.is_grad_enabled() and value.numel():
        address = value.untyped_storage().data_ptr()

        def forget(dead: "weakref.ref[Tensor]") -> None:
            if address in _made and _made[address][0] is dead:
                del _made[address]

        _made[address] = weakref.ref(value, forget), Source(make, of, of._version)
    return value


def pack(tensor: Tensor) -> Tensor | Again:
    """What a graph keeps of a tensor."""
    found = _made.get(tensor.untyped_storage().data_ptr())
    return tensor if found is None or found[0]() is None else Again(found[1], tensor)


def unpack(kept: Tensor | Again) -> Tensor:
    """The tensor again."""
    if isinstance(kept, Tensor):
        return kept
    with torch.no_grad():
        return kept.tensor()
