"""What a preset leaves in full precision of the networks that it is for."""

import pytest
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, UNet2DConditionModel, UNet2DModel
from policies import policy

from quantlab.quantizers.insert import planned_bits, quantizable_layers
from quantlab.quantizers.policy import LayerBits

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 8, "norm_num_groups": 4}


def unet():
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    return UNet2DModel(**SMALL, **blocks)


def text_unet():
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    return UNet2DConditionModel(
        **SMALL, down_block_types=down, up_block_types=up, cross_attention_dim=8, attention_head_dim=4
    )


def dit():
    return DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=8, num_layers=1, sample_size=8, patch_size=2)


def flux():
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
    )


@pytest.mark.parametrize(
    ("network", "preset", "left"),
    [
        (unet, "auto", set()),
        (unet, "tfmq", {"conv_in", "conv_out", "time_embedding.linear_1", "shortcuts"}),
        (text_unet, "auto", {"conv_in", "conv_out"}),
        (text_unet, "none", set()),
        (dit, "auto", {"pos_embed", "norm1", "proj_out_1", "proj_out_2"}),
        (dit, "vidit_q", {"pos_embed", "proj_out_1", "proj_out_2"}),
        (flux, "auto", {"x_embedder", "context_embedder", "time_text_embed", "norm1", "norm", "norm_out", "proj_out"}),
    ],
)
def test_layers_left_in_full_precision(network, preset, left):
    network = network()
    found = set(quantizable_layers(network)) - set(planned_bits(network, policy("uniform_affine", 4, 8, preset=preset)))
    shown = set()
    for name in found:
        parts = name.split(".")
        if "conv_shortcut" in parts or "downsamplers" in parts or "upsamplers" in parts:
            shown.add("shortcuts")
        elif "norm1" in parts or "norm1_context" in parts:
            shown.add("norm1")
        elif parts[0] == "single_transformer_blocks":
            shown.add(parts[2])
        else:
            shown.add(name if parts[0] == "time_embedding" else parts[0])
    assert shown == left


def test_a_rule_of_the_config_comes_before_the_preset():
    own = policy("uniform_affine", 4, 8, rules=[("^conv_in$", 8, 8)])
    planned = planned_bits(text_unet(), own)
    assert planned["conv_in"] == LayerBits(8, 8) and "conv_out" not in planned
    products = own.operand_bits("mid_block.attentions.0.transformer_blocks.0.attn1", "query")
    assert products == 32
