"""Classifier-free guidance (Ho and Salimans 2022), as a wrapper around a network.

    output = output(x, null) + g (output(x, condition) - output(x, null))

g = 1 is the conditional network itself. For predictions that are affine in epsilon (all of `prediction.KINDS`), guiding
the output is the same as guiding epsilon.
"""

import torch
from torch import Tensor

from quantlab.diffusion.conditioning import Condition, Guidance
from quantlab.diffusion.rollout import Conditional, Network


def guided(conditional: Conditional, guidance: Guidance, null_condition: Condition) -> Conditional:
    """`conditional`, guided; null_condition: the unconditional input (tensors [1, ...]).

    Batched, both outputs come from one pass over a batch of 2 N, the unconditional ones first; otherwise from two
    passes, in half the memory.
    """
    if guidance.scale == 1:
        return conditional

    def given(condition: Condition) -> Network:
        null = {name: null_condition[name].to(value).expand(value.shape) for name, value in condition.items()}
        if guidance.batched:
            joined = conditional({name: torch.cat([null[name], value]) for name, value in condition.items()})
        else:
            without, within = conditional(null), conditional(condition)

        def network(x: Tensor, t: float, i: int) -> Tensor:
            if guidance.batched:
                unconditional, conditioned = joined(torch.cat([x, x]), t, i).chunk(2)
            else:
                unconditional, conditioned = without(x, t, i), within(x, t, i)
            output = unconditional + guidance.scale * (conditioned - unconditional)
            if guidance.channels is None:
                return output
            return torch.cat([output[:, : guidance.channels], conditioned[:, guidance.channels :]], 1)

        return network

    return given
