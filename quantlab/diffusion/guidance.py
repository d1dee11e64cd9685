"""Classifier-free guidance (Ho and Salimans 2022), as a wrapper around a network.

    output = output(x, null) + g (output(x, condition) - output(x, null))

g = 1 is the conditional network itself. For predictions that are affine in epsilon (all of `prediction.KINDS`), guiding
the output is the same as guiding epsilon.
"""

import torch
from torch import Tensor

from quantlab.diffusion.rollout import Condition, Conditional, Network


def guided(conditional: Conditional, scale: float, null_condition: Condition, batched: bool = True) -> Conditional:
    """`conditional`, guided with g = `scale`; null_condition: the unconditional input (tensors [1, ...]).

    batched: both outputs from one pass over a batch of 2 N; otherwise from two passes, in half the memory.
    """
    if scale == 1:
        return conditional

    def given(condition: Condition) -> Network:
        null = {name: null_condition[name].to(value).expand(value.shape) for name, value in condition.items()}
        joined = {name: torch.cat([null[name], value]) for name, value in condition.items()}

        def network(x: Tensor, t: float, i: int) -> Tensor:
            if batched:
                unconditional, conditioned = conditional(joined)(torch.cat([x, x]), t, i).chunk(2)
            else:
                unconditional, conditioned = conditional(null)(x, t, i), conditional(condition)(x, t, i)
            return unconditional + scale * (conditioned - unconditional)

        return network

    return given
