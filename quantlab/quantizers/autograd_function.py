"""Functions with a derivative of their own, which torch.func's transforms take as well, at no cost without them."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from quantlab.errors import RunError


class QuantizerFunction(torch.autograd.Function):
    """A subclass gives `forward(*inputs)`, `setup_context(ctx, inputs, output)` and `backward(ctx, grad)`, of
    operations that torch can differentiate and batch, and is called by `call`.

    This is the form that `torch.func` (grad, vmap, ...) asks for. Without a transform each call in that form takes some
    50 microseconds more than in the older one, where forward has the context, as long as quantizing 10,000 numbers; so
    that is taken there. Forward-mode derivatives (jvp, jacfwd, hessian) do not exist: torch says so.
    """

    generate_vmap_rule = True
    untransformed: ClassVar[type[torch.autograd.Function]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        parts = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward)}
        cls.untransformed = type(cls.__name__, (torch.autograd.Function,), parts)

    @classmethod
    def call(cls, *inputs: Any) -> Tensor:
        output: Tensor
        if is_transformed() or torch.compiler.is_compiling():
            output = cls.apply(*inputs)
        else:
            output = cls.untransformed.apply(*inputs)
        return output


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work.

    Raises RunError while one is being compiled: torch would differentiate what `forward` computes in place of calling
    `backward`, and the gradients would be wrong without a word. The compiler then leaves the function uncompiled; under
    fullgraph=True it stops.
    """
    transformed = torch._C._are_functorch_transforms_active()
    if transformed and torch.compiler.is_compiling():
        raise RunError(
            "quantizers: got torch.compile(fullgraph=True) around a transform of torch.func, allowed: one of the two"
        )
    return transformed
