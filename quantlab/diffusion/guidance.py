"""Classifier-free guidance (Ho and Salimans 2022): a network around a network.

    output = output(x, nothing) + g (output(x, condition) - output(x, nothing))

g = 1 is the conditional network itself. For any prediction that is affine in epsilon (all of `prediction.KINDS`),
guiding the output is guiding epsilon.
"""

import torch
from torch import Tensor

from quantlab.diffusion.rollout import Condition, Conditional, Network


def guided(conditional: Conditional, scale: float, nothing: Condition, batched: bool = True) -> Conditional:
    """`conditional`, guided by g = `scale`; nothing: the condition (tensors [1, ...]) that says nothing.

    batched: both outputs from one pass over a batch of 2 N, else from two passes, which take half of the memory.
    """
    if scale == 1:
        return conditional

    def given(condition: Condition) -> Network:
        without = {name: nothing[name].to(value).expand(value.shape) for name, value in condition.items()}
        joined = {name: torch.cat([without[name], value]) for name, value in condition.items()}

        def network(x: Tensor, t: int, i: int) -> Tensor:
            if batched:
                plain, told = conditional(joined)(torch.cat([x, x]), t, i).chunk(2)
            else:
                plain, told = conditional(without)(x, t, i), conditional(condition)(x, t, i)
            return plain + scale * (told - plain)

        return network

    return given
