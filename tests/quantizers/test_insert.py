"""Which modules get which quantizers, and that the wrapped network computes what it says."""

import re

import pytest
import torch
from policies import policy as quantizer_policy
from policies import quantize, section
from torch import nn

from quantlab.errors import RequestError
from quantlab.models.diffusers_denoiser import shortcut_splits
from quantlab.quantizers.attention import QuantizedAttention
from quantlab.quantizers.calibration import calibrate_weights, grouped_activations, observed_ranges
from quantlab.quantizers.insert import drop_float_weights, insert, planned_bits
from quantlab.quantizers.layer import QuantizedLayer
from quantlab.quantizers.policy import LayerBits
from quantlab.quantizers.rounding import fix_rounding, learn_rounding
from quantlab.quantizers.uniform_affine import CodedWeight, GroupPointer, UniformAffineActivation, UniformAffinePolicy


def affine(weight=4, activation=8, rules=(), pointer=None, **changes):
    search = {"scale_search": "min_max"}
    own = {"weight": search, "activation": search}
    return UniformAffinePolicy(section("uniform_affine", weight, activation, rules=rules, own=own, **changes), pointer)


def unet(**more):
    from diffusers.models.unets.unet_2d import UNet2DModel

    torch.manual_seed(0)
    return (
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            **more,
        )
        .eval()
        .requires_grad_(False)
    )


def test_policy_first_match_counts_before_the_ends_and_nothing_lowers_full_precision():
    policy = affine(4, 6, [("^conv_in$", 8, 6), ("conv", 2, 32)], first=(5, 5), last=(7, 7))
    assert policy.bits("conv_in", is_first=True) == LayerBits(8, 6)
    assert policy.bits("mid.conv1") == LayerBits(2, 32)
    assert policy.bits("linear") == LayerBits(4, 6)
    assert policy.bits("linear", is_first=True) == LayerBits(5, 5)
    assert policy.bits("linear", is_last=True) == LayerBits(7, 7)
    assert affine(32, 6, [("^conv_in$", 8, 8)]).bits("conv_in") == LayerBits(32, 8)
    assert affine(32, 6, last=(8, 8)).bits("x", is_last=True) == LayerBits(32, 8)


def test_first_and_last_of_a_unet_are_its_outer_convolutions():
    planned = planned_bits(unet(), affine(4, 6, first=(8, 7), last=(7, 8)))
    assert (planned.pop("conv_in"), planned.pop("conv_out")) == (LayerBits(8, 7), LayerBits(7, 8))
    assert set(planned.values()) == {LayerBits(4, 6)}


@pytest.mark.parametrize("name", ["lsq", "uniform_affine"])
def test_full_precision_of_all_layers_is_full_precision_of_the_exceptions_too(name):
    planned = planned_bits(unet(), quantizer_policy(name, 32, 6, first=(8, 8), last=(8, 8), rules=[("mid", 4, 4)]))
    assert {bits.weight for bits in planned.values()} == {32}
    assert {bits.activation for bits in planned.values()} == {4, 6, 8}


def test_rules_speak_of_operands_of_attention_too():
    network = unet()
    insert(network, affine(4, 6, [("mid_block.*(key|softmax)", 8, 32)]))
    processor = network.mid_block.attentions[0].processor
    assert isinstance(processor.key, nn.Identity) and isinstance(processor.softmax, nn.Identity)
    assert processor.query.bits == 6


@pytest.mark.parametrize(
    "pattern, attention, said",
    [("^conv_inn$", True, "did you mean 'conv_in'?"), ("processor", False, "allowed: a part of one of conv_in, ")],
)
def test_a_rule_that_concerns_nothing_is_refused(pattern, attention, said):
    policy = affine(rules=[("mid_block", 8, 8), (pattern, 8, 8)], attention=attention)
    with pytest.raises(
        RequestError, match=re.escape(f"quantizer.policy: '{pattern}' is found in no layer's name")
    ) as caught:
        planned_bits(unet(), policy)
    assert said in str(caught.value)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class SamePlain(nn.Conv2d):
    """Another class, and yet the same function."""


def test_layers_that_are_more_than_a_product_are_refused_together_and_can_be_left_out():
    network = nn.Sequential(SamePlain(3, 4, 3), Scaled(4, 4), nn.Linear(4, 4), Scaled(4, 4))
    with pytest.raises(
        RequestError, match=r"2 of 4 layers cannot be quantized: 1, 3 \(Scaled computes more than a product\)"
    ) as caught:
        planned_bits(network, affine())
    pattern = re.search(r'modules: "(.*?)"', str(caught.value))[1]
    insert(network, affine(rules=[(pattern, 32, 32)]))
    assert [type(module) for module in network] == [QuantizedLayer, Scaled, QuantizedLayer, Scaled]


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [(2, 1), "same"])
def test_every_padding_is_computed_as_torch_does(mode, padding):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, (4, 3), padding=padding, padding_mode=mode)
    holder, x = nn.Sequential(layer), torch.randn(2, 2, 6, 7)
    quantize(holder, affine(8, 32))
    layer.weight = nn.Parameter(holder[0].weight_quantizer())
    assert torch.equal(holder(x), layer(x))


def test_32_bits_change_nothing():
    network = unet()
    x = torch.randn(2, 1, 8, 8)
    expected = network(x, 5).sample
    insert(network, affine(32, 32), shortcut_splits(network))
    torch.testing.assert_close(network(x, 5).sample, expected, rtol=1e-4, atol=1e-5)


def coded_weights(network):
    return [module for module in network.modules() if isinstance(module, CodedWeight)]


def test_every_layer_and_attention_product_is_quantized():
    network = unet()
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules())
    splits = shortcut_splits(network)
    insert(network, affine(), splits)
    assert not any(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules())
    attentions = [m for m in network.modules() if isinstance(m, QuantizedAttention)]
    assert len(attentions) == 4  # one in the down path, one in the middle, two in the up path
    assert len(coded_weights(network)) == layers + len(splits)
    assert len(grouped_activations(network)) == layers + len(splits) + 4 * len(attentions)


def test_shortcut_split_stands_at_the_concatenation():
    network = unet()
    splits = shortcut_splits(network)
    seen = {}
    for i, block in enumerate(network.up_blocks):

        def note(module, args, kwargs, i=i):
            hidden, skips = (
                kwargs.get("hidden_states", args[0] if args else None),
                kwargs.get("res_hidden_states_tuple", args[1] if len(args) > 1 else None),
            )
            seen[i] = (hidden.shape[1], [skip.shape[1] for skip in skips])

        block.register_forward_pre_hook(note, with_kwargs=True)
    network(torch.randn(1, 1, 8, 8), 3)
    for name, split in splits.items():
        i, j = map(int, re.findall(r"\d+", name)[:2])
        resnet = network.up_blocks[i].resnets[j]
        skip = seen[i][1][-1 - j]
        assert split + skip == resnet.in_channels
    assert len(splits) == 4


def test_halves_of_a_split_have_ranges_of_their_own():
    layer = nn.Conv2d(6, 4, 1)
    holder = nn.Sequential(layer)
    insert(holder, affine(4, 4), {"0": 2})
    with observed_ranges(holder):
        holder(torch.cat([torch.rand(3, 2, 5, 5) * 100, torch.rand(3, 4, 5, 5)], dim=1))
    quantizers = grouped_activations(holder)
    first, second = (quantizer.log_scale[0].exp().item() for quantizer in quantizers)
    assert first / second == pytest.approx(100, rel=0.1)


def test_groups_have_scales_of_their_own_and_unseen_ones_borrow():
    pointer = GroupPointer(3)
    quantizer = UniformAffineActivation(8, pointer=pointer, scale_search="min_max")
    quantizer.observe()
    for index, width in ((0, 1.0), (2, 4.0)):
        pointer.index = index
        x = torch.linspace(0, width, 256)
        assert torch.equal(quantizer(x), x)  # observing changes nothing
    quantizer.choose_ranges()
    scales = [scale.exp().item() for scale in quantizer.log_scale]
    assert scales == pytest.approx([1 / 255, 1 / 255, 4 / 255])


def test_shared_scales_are_one():
    assert len(UniformAffineActivation(8, pointer=GroupPointer(5), shared=True).log_scale) == 1


def test_state_loads_strictly_into_a_blank_network():
    network, pointer = unet(), GroupPointer(2)
    splits = shortcut_splits(network)
    insert(network, affine(3, 6, pointer=pointer), splits)
    calibrate_weights(network)
    with observed_ranges(network):
        for pointer.index in (0, 1):
            network(torch.randn(4, 1, 8, 8), 10)
    learn_rounding(network, 1.1, -0.1, straight_through=False)
    fix_rounding(network)
    drop_float_weights(network)
    x = torch.randn(2, 1, 8, 8)
    expected = network(x, 7).sample

    other, pointer_of_other = unet(), GroupPointer(2)
    insert(other, affine(3, 6, pointer=pointer_of_other), splits)
    drop_float_weights(other)
    other.load_state_dict(network.state_dict())
    pointer_of_other.index = pointer.index
    assert torch.equal(other(x, 7).sample, expected)
    third = unet()
    insert(third, affine(3, 6, pointer=GroupPointer(5)), splits)
    drop_float_weights(third)
    with pytest.raises(RuntimeError):
        third.load_state_dict(network.state_dict())
