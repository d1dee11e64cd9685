"""Model files and checkpoints of earlier versions: their tensors under the names of today."""

import torch

from quantlab.methods.ptq.quantized_denoiser import present_names


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
