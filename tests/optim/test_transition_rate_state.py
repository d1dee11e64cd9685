"""Optimizers with scheduled transition rates, saved, resumed and copied."""

import copy
import pickle

import pytest
import torch
from scheduled_walks import OPTIMIZERS, parameters, scheduled, sign, walked

from quantlab.optim import SGDT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_optimizer_continues_bit_for_bit(optimizer, dtype):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(50, dtype=dtype))
    one = scheduled(optimizer, weight, target=0.05)
    walked([weight], one, 10)
    copied = torch.nn.Parameter(weight.data.clone())
    other = scheduled(optimizer, copied, target=0.05)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    walked([weight], one, 10, seed=2)
    walked([copied], other, 10, seed=2)
    assert torch.equal(weight, copied)
    assert other.state[copied]["discrete"].dtype == torch.int8
    assert torch.equal(one.state[weight]["talr"], other.state[copied]["talr"])


class Rounded(torch.nn.Module):
    """A layer whose quantizer knows something: levels of its own scale."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 40))
        self.register_buffer("scale", torch.tensor(0.1))

    def discrete(self, weight):
        return (weight / self.scale).clamp(-2, 1).round()


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda pair: pickle.loads(pickle.dumps(pair))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_copy_counts_the_copied_weights_with_the_copied_quantizers(optimizer, copied):
    layer = Rounded()
    one = scheduled(optimizer, layer.weight, layer.discrete, target=0.05)
    walked([layer.weight], one, 5)
    twin, other = copied((layer, one))
    layer.scale.fill_(100.0)  # the original's alone: its levels are all zero from now on
    walked([layer.weight], one, 5, seed=2)
    walked([twin.weight], other, 1, seed=2)
    levels = other.state[twin.weight]["discrete"]
    assert other.param_groups[0]["params"][0] is twin.weight and levels.unique().numel() > 2
    assert one.state[layer.weight]["discrete"].abs().sum() == 0
    other.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert other.param_groups[1]["rule"] == "additive"


def test_a_copy_of_the_optimizer_alone_is_whole():
    layer = Rounded()
    one = scheduled(SGDT, layer.weight, layer.discrete, target=0.05)
    walked([layer.weight], one, 5)
    other = copy.deepcopy(one)
    (weight,) = other.param_groups[0]["params"]
    layer.scale.fill_(100.0)
    walked([weight], other, 3)
    assert weight is not layer.weight and other.state[weight]["discrete"].unique().numel() > 2


def test_a_plain_optimizers_state_goes_into_ordinary_groups_only():
    weights, others = parameters(), parameters()
    plain = torch.optim.SGD(weights, lr=0.3, momentum=0.9)
    walked(weights, plain, 3)
    ours = SGDT(others)
    ours.load_state_dict(copy.deepcopy(plain.state_dict()))
    for one, other in zip(weights, others):
        other.data.copy_(one)
    walked(weights, plain, 3)
    walked(others, ours, 3)
    assert all(torch.equal(a, b) for a, b in zip(weights, others))
    targets = SGDT([{"params": others, "discretize": [sign, sign], "lr": 0.01}])
    for state, into in ((plain.state_dict(), targets), (targets.state_dict(), ours)):
        with pytest.raises(ValueError, match="scheduled groups: got a state of .* give `discretize`"):
            into.load_state_dict(state)
