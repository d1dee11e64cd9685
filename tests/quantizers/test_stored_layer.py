"""A quantized layer as tensors and JSON, and back: weights and outputs are the same bit for bit."""

import json

import pytest
import timm
import torch
from policies import policy, quantize
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F

from quantlab.config.catalog import options
from quantlab.errors import RequestError, RunError
from quantlab.quantizers.calibration import calibrate_activations, observed_ranges
from quantlab.quantizers.insert import drop_float_weights, insert, weight_quantized_layers
from quantlab.quantizers.rounding import fix_rounding, learn_rounding
from quantlab.quantizers.stored_layer import TabulatedWeight, stored_tensors, take_tensors, weight_facts
from quantlab.quantizers.uniform_affine import CodedWeight
from quantlab.run.state import strict_load

BITS = {"binary": (1,), "reactnet": (1,), "lsq": (2, 3, 4, 8), "learned_clipping": (2, 3, 4, 8)}
TRAINING = sorted(set(options("quantizer")) - {"none", "uniform_affine"})
CASES = [(name, bits) for name in TRAINING for bits in BITS.get(name, (1, 2, 3, 4, 8))]
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def network(*first: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first = first or (nn.Conv2d(3, 7, 3, padding=1, bias=False),)
    return nn.Sequential(*first, nn.BatchNorm2d(7), nn.Conv2d(7, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))


def trained(name: str, bits: int, net: nn.Module) -> nn.Module:
    """Quantized, and what its quantizers learn moved to where no number is round."""
    quantize(net, policy(name, bits))
    calibrate_activations(net, lambda: net(X))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=generator))
    return net.eval()


def stored(net: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, dict]]:
    """As a file would hold them."""
    tensors, facts = net.state_dict(), {}
    for name, layer in weight_quantized_layers(net).items():
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{name}.")}
        tensors |= {f"{name}.{key}": tensor for key, tensor in stored_tensors(layer).items()}
        facts[name] = weight_facts(layer, "some")
    return load(save({name: tensor.contiguous() for name, tensor in tensors.items()})), json.loads(json.dumps(facts))


def take(net: nn.Module, tensors: dict[str, torch.Tensor], facts: dict[str, dict]) -> nn.Module:
    state = dict(tensors)
    for name, layer in weight_quantized_layers(net).items():
        own = {key.removeprefix(f"{name}."): state.pop(key) for key in tensors if key.startswith(f"{name}.")}
        state |= {f"{name}.{key}": tensor for key, tensor in take_tensors(layer, own, facts[name]).items()}
    strict_load(net, state, "the file")
    return net.eval()


@torch.no_grad()
def assert_same(net: nn.Module, blank: nn.Module, x: torch.Tensor = X) -> nn.Module:
    """What `net` stores makes it of `blank`."""
    loaded = take(blank, *stored(net))
    wanted = weight_quantized_layers(net)
    for name, layer in weight_quantized_layers(loaded).items():
        weight = layer.weight_quantizer(layer.weight)
        assert torch.equal(weight, wanted[name].weight_quantizer(wanted[name].weight))
        assert layer.weight is None or torch.equal(layer.weight, weight)
    assert torch.equal(loaded(x), net(x))
    again, facts = stored(loaded)
    first, _ = stored(net)
    assert again.keys() == first.keys() and all(torch.equal(again[name], first[name]) for name in first)
    return loaded


def blank(name: str, bits: int, net: nn.Module) -> nn.Module:
    insert(net, policy(name, bits, learn_weight_scale=False))
    return net


@pytest.mark.parametrize("name, bits", CASES)
def test_training_quantizers(name, bits):
    loaded = assert_same(trained(name, bits, network()), blank(name, bits, network()))
    assert all(isinstance(layer.weight_quantizer, CodedWeight) for layer in weight_quantized_layers(loaded).values())


def test_levels_are_stored_only_where_the_formula_rounds_otherwise():
    def tabulated(name):
        return [key for key in stored(trained(name, 8, network()))[0] if key.endswith("levels")]

    assert {name for name in TRAINING if name not in BITS and tabulated(name)} == {"dsq", "ewgs"}
    loaded = assert_same(trained("ewgs", 8, network()), blank("ewgs", 8, network()))
    assert isinstance(loaded[0].weight_quantizer, TabulatedWeight)


def test_the_file_is_small_and_says_what_it_holds():
    tensors, facts = stored(trained("lsq", 4, network()))
    assert "0.weight" not in tensors and tensors["0.weight_quantizer.codes"].shape == (7 * 3 * 9 // 2 + 1,)
    assert facts["0"] == {"quantizer": "some", "bits": 4, "axis": None, "shape": [7, 3, 3, 3], "grid": [-8, 7]}
    tensors, facts = stored(trained("reactnet", 1, network()))
    assert tensors["2.weight_quantizer.codes"].shape == (-(-5 * 7 * 9 // 8),)
    assert facts["2"] == {"quantizer": "some", "bits": 1, "axis": 0, "shape": [5, 7, 3, 3], "grid": [0, 1]}


@pytest.mark.parametrize("name, bits", [("lsq", 4), ("dsq", 8), ("reactnet", 1)])
def test_standardized_weights(name, bits):
    def standardized():
        return network(timm.layers.ScaledStdConv2d(3, 7, 3))

    assert_same(trained(name, bits, standardized()), blank(name, bits, standardized()))


def test_a_network_that_takes_weights_past_its_layers():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.qkv, self.last = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(F.linear(self.first(x), self.qkv.weight, self.qkv.bias))

    def attention():
        torch.manual_seed(0)
        return Attention()

    loaded = assert_same(trained("lsq", 3, attention()), blank("lsq", 3, attention()))
    assert loaded.uses_weights_directly


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["output_channel", "tensor"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@torch.no_grad()
def test_post_training(bits, granularity, symmetric):
    plan = policy("uniform_affine", bits, own={"weight": {"symmetric": symmetric, "granularity": granularity}})

    def inserted():
        net = network()
        insert(net, plan, {"2": 3})
        return net.eval()

    net = inserted()
    for layer in weight_quantized_layers(net).values():
        layer.weight_quantizer.calibrate(layer.weight)
    with observed_ranges(net):
        net(X)
    learned = learn_rounding(net, 1.1, -0.1, straight_through=False)
    assert len(learned) == 4  # one of two parts
    for one in learned:
        one.rounding.copy_(torch.randn(one.rounding.shape, generator=torch.Generator().manual_seed(3)))
    with pytest.raises(RunError, match="rounding is still learned"):
        stored(net)
    fix_rounding(net)
    other = inserted()
    drop_float_weights(net)
    drop_float_weights(other)
    loaded = assert_same(net, other)
    assert loaded[0].weight is None
    facts = stored(net)[1]
    assert facts["0"]["axis"] == (0 if granularity == "output_channel" else None) and "split" not in facts["0"]
    assert facts["2"]["shape"] == [5, 7, 3, 3] and facts["2"]["split"] == [3, 4]


def test_tensors_that_were_never_packed_are_the_state():
    net, other = trained("lsq", 4, network()), blank("lsq", 4, network())
    take(other, net.state_dict(), dict.fromkeys(weight_quantized_layers(net), {"bits": 4}))
    assert torch.equal(other(X), net(X))


def test_weights_of_another_shape_are_refused():
    tensors, facts = stored(trained("lsq", 4, network()))
    wider = nn.Sequential(*list(network())[:-1], nn.Linear(80, 4))
    with pytest.raises(
        RequestError, match=r"the file .* of another shape \(first: 5.weight, \[3, 80\] instead of \[4, 80\]\)"
    ):
        take(blank("lsq", 4, wider), tensors, facts)
    facts["5"]["shape"] = [3, 8]
    with pytest.raises(RunError, match="got 120 bytes, allowed: the 12 of 24 codes of 4 bits"):
        take(blank("lsq", 4, network()), tensors, facts)
