"""A stand-in for an accelerator: the CPU computes on tensors of the device `pretend`, but refuses to mix them with its
own.

A run on it fails where the same run on a GPU would fail: where a tensor was made on the CPU and never moved. `python
pretended.py WORDS` is `quantlab WORDS` with `device=cpu` meaning it, and what stands behind the word THEN the next
command. (Not within a process that has back-propagated before: autograd counts devices once.)
"""

import sys

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

THEN = "then"
# PyTorch's backends in Python exist since 2.10 and are experimental
POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
# Where accelerators accept CPU tensors together with their own: copies and indices
MEETING = {"aten::copy_", "aten::_copy_from", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class Pretended(Tensor):
    """A tensor of the device `pretend`; `inside` holds its values."""

    @staticmethod
    def __new__(cls, inside: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device="pretend:0",
        )
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return computed(op, *args, **(kwargs or {}))

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        return self.inside.tolist()


def computed(op, *args, **kwargs):
    """`op` on what is inside its arguments; what comes out is pretended again, unless it was asked for on the CPU."""
    name = op.name().split(".")[0]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name not in MEETING and any(one.ndim > 0 and not isinstance(one, Pretended) for one in tensors):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} found at least two devices, pretend and cpu!"
        )
    # what an operation in place gives back
    outside = {id(one.inside): one for one in tensors if isinstance(one, Pretended)}
    device = kwargs.get("device")
    inner_args, inner_kwargs = tree_map_only(Pretended, lambda one: one.inside, (args, kwargs))
    if device is not None:
        inner_kwargs["device"] = torch.device("cpu")
    if name == "aten::_copy_from":
        inner_args[1].copy_(inner_args[0])
        return args[1]
    result = op(*inner_args, **inner_kwargs)
    if device is not None and torch.device(device).type == "cpu":
        return result
    return tree_map_only(Tensor, lambda one: outside[id(one)] if id(one) in outside else Pretended(one), result)


def by_way_of_the_cpu(make):
    """torch.tensor or torch.as_tensor as a user sees it: made of Python data, then moved. (A backend in Python
    cannot be its first home.)
    """

    def made(data, *, device=None, **options):
        there = (
            make(data, **options)
            if device is None or not isinstance(data, Tensor)
            else make(data, device=device, **options)
        )
        return there if device is None else there.to(device)

    return made


def main(words: list[str]) -> int:
    from quantlab.cli.main import main as quantlab

    module = backend_registration._DummyBackendModule()
    module.get_rng_state = lambda device=0: torch.get_rng_state()  # it draws with the CPU's generator
    module.set_rng_state = lambda state, device=0: torch.set_rng_state(state)
    backend_registration._setup_privateuseone_for_python_backend("pretend", module)
    library = torch.library.Library("_", "IMPL")  # lives as long as what it holds is to be used
    library.fallback(computed, "PrivateUse1")
    torch.tensor, torch.as_tensor = by_way_of_the_cpu(torch.tensor), by_way_of_the_cpu(torch.as_tensor)
    Accelerator.device = property(lambda self: torch.device("pretend", 0))
    while THEN in words:
        first, words = words[: words.index(THEN)], words[words.index(THEN) + 1 :]
        if code := quantlab(first):
            return code
    return quantlab(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
