"""Networks and state dicts for the tests of weights."""

import pytest
import torch

from quantlab.errors import RequestError
from quantlab.models.resnet_cifar import CifarResNet


def resnet(depth=8, width=4, classes=10, channels=1, final_batch_norm=True):
    return CifarResNet(channels, classes, depth, width, final_batch_norm).eval()


def randomized(network, seed=1):
    """Its state dict, every floating value drawn anew: what a trained file would hold."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(tensor.shape, generator=generator) + 0.5 if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }


def prefixed(tensors, *prefixes):
    return {f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in tensors.items()}


def refusal(call, *arguments):
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
