"""Classifier-free guidance (Ho and Salimans 2022): a network around a network.

    output = output(x, nothing) + g (output(x, condition) - output(x, nothing))

g = 1 is the conditional network itself. For any prediction that is affine in epsilon (all of `prediction.KINDS`), guiding the output is
guiding epsilon.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Condition = Mapping[str, Tensor]        # what the network is told beside x and t: tensors [N, ...] by their argument's name
ConditionedNetwork = Callable[[Tensor, int, int, Condition], Tensor]    # (x, timestep, step of the walk, condition) -> output


def guided(network: ConditionedNetwork, scale: float, nothing: Condition, batched: bool = True) -> ConditionedNetwork:
    """`network`, guided by g = `scale`; nothing: the condition (tensors [1, ...]) that says nothing.

    batched: both outputs from one pass over a batch of 2 N, else from two passes, which take half of the memory.
    """
    if scale == 1:
        return network

    def both(x: Tensor, t: int, i: int, condition: Condition) -> Tensor:
        without = {name: nothing[name].to(value).expand(value.shape) for name, value in condition.items()}
        if batched:
            joined = {name: torch.cat([without[name], value]) for name, value in condition.items()}
            plain, conditional = network(torch.cat([x, x]), t, i, joined).chunk(2)
        else:
            plain, conditional = network(x, t, i, without), network(x, t, i, condition)
        return plain + scale * (conditional - plain)

    return both
