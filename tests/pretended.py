"""A stand-in for an accelerator: the CPU computes on tensors of the device `pretend`, but refuses to mix them with its
own.

A run on it fails where the same run on a GPU would fail: where a tensor was made on the CPU and never moved. `python
pretended.py FOLDER` carries out commands of quantlab with `device=cpu` meaning it. (Not within a process that has
back-propagated before: autograd counts devices once.)
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from forks import forked
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only
from undrawn import undrawn

# PyTorch's backends in Python exist since 2.10 and are experimental
POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
# Where accelerators accept CPU tensors together with their own: copies and indices
MEETING = {"aten::copy_", "aten::_copy_from", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}
KEPT: list[object] = []  # what torch forgets with its last reference


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
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    inner_args, inner_kwargs = tree_map_only(Pretended, lambda one: one.inside, (args, kwargs))
    if device is not None:
        inner_kwargs["device"] = torch.device("cpu") if device.type == "pretend" else device
    if name == "aten::_copy_from":
        inner_args[1].copy_(inner_args[0])
        return args[1]
    result = op(*inner_args, **inner_kwargs)
    if device is not None and device.type != "pretend":
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


def pretend() -> None:
    """From now on, `device=cpu` means it."""
    module = backend_registration._DummyBackendModule()
    module.get_rng_state = lambda device=0: torch.get_rng_state()  # it draws with the CPU's generator
    module.set_rng_state = lambda state, device=0: torch.set_rng_state(state)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    backend_registration._setup_privateuseone_for_python_backend("pretend", module)
    library = torch.library.Library("_", "IMPL")
    library.fallback(computed, "PrivateUse1")
    KEPT.append(library)
    torch.tensor, torch.as_tensor = by_way_of_the_cpu(torch.tensor), by_way_of_the_cpu(torch.as_tensor)
    Accelerator.device = property(lambda self: torch.device("pretend", 0))


def main(folder: Path) -> None:
    """For commands by name, as JSON on stdin, the exit codes of all, as JSON on stdout, and FOLDER/NAME.log. Each is a
    fork of this process, which has imported everything and never back-propagated.
    """
    import quantlab.runner  # noqa: F401
    from quantlab.cli.main import main as quantlab

    pretend()
    commands = json.load(sys.stdin)
    logs = {name: folder / f"{name}.log" for name in commands}
    with undrawn():
        codes = {name: forked(lambda name=name: quantlab(commands[name]), logs[name]) for name in commands}
    json.dump(codes, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
