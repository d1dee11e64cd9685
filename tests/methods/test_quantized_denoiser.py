"""A quantized copy of a network; and model files of earlier versions, their tensors under the names of today."""

import torch
from policies import section

from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser, present_names
from quantlab.quantizers.calibration import calibrate_weights, observed_ranges
from quantlab.quantizers.insert import weight_quantized_layers
from quantlab.quantizers.uniform_affine import CodedWeight


def test_names_of_earlier_versions():
    old = {
        "conv_in.bias": 0,
        "conv_in.weights.0.codes": 1,
        "conv_in.weights.0.rounding": 2,
        "conv_in.activations.0.log_scale.12": 3,
        "up.conv_shortcut.weights.0.scale": 4,
        "up.conv_shortcut.weights.1.scale": 5,
        "up.conv_shortcut.activations.0.zero_point": 6,
        "up.conv_shortcut.activations.1.zero_point": 7,
        "mid.attentions.0.processor.query.log_scale.0": 8,
    }
    named = present_names({name: torch.tensor(value) for name, value in old.items()})
    assert {name: tensor.item() for name, tensor in named.items()} == {
        "conv_in.bias": 0,
        "conv_in.weight_quantizer.codes": 1,
        "conv_in.weight_quantizer.rounding": 2,
        "conv_in.activation_quantizer.log_scale.12": 3,
        "up.conv_shortcut.weight_quantizer.parts.0.scale": 4,
        "up.conv_shortcut.weight_quantizer.parts.1.scale": 5,
        "up.conv_shortcut.activation_quantizer.parts.0.zero_point": 6,
        "up.conv_shortcut.activation_quantizer.parts.1.zero_point": 7,
        "mid.attentions.0.processor.query.log_scale.0": 8,
    }
    assert present_names(named) == named


def test_weights_in_full_precision_are_whole_again():
    first, second = torch.ones(4, 2, 1, 1), torch.zeros(4, 3, 1, 1)
    old = {"a.weights.0.weight": first, "b.weights.0.weight": first, "b.weights.1.weight": second}
    named = present_names(old)
    assert named.keys() == {"a.weight", "b.weight"} and named["a.weight"].shape == (4, 2, 1, 1)
    assert torch.equal(named["b.weight"], torch.cat([first, second], dim=1))


def test_a_snapshot_holds_no_weight_twice_and_walks_as_before():
    from diffusers.models.unets.unet_2d import UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    search = {"scale_search": "min_max"}
    own = section("uniform_affine", 4, 6, own={"weight": search, "activation": search})
    quantized = QuantizedDenoiser(unet.eval(), own, steps=2, group_size=2)
    calibrate_weights(quantized.unet)
    x = torch.randn(1, 1, 8, 8)
    with observed_ranges(quantized.unet):
        quantized.network({})(x, 5, 0)
    twin = quantized.snapshot()
    layers, twins = (weight_quantized_layers(one.unet) for one in (quantized, twin))
    for name, layer in layers.items():
        for ours, theirs in zip(layer.weight_quantizer.modules(), twins[name].weight_quantizer.modules()):
            if isinstance(ours, CodedWeight):
                assert theirs.codes is ours.codes and ours._value is not None and theirs._value is None
    assert torch.equal(twin.network({})(x, 5, 0), quantized.network({})(x, 5, 0))
