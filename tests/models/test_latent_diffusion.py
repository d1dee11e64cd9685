"""Checkpoints of latent-diffusion, whose names and layouts are written down here once more, the other way round."""

import functools

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel, UNet2DModel, VQModel
from safetensors.torch import load_file
from torch import nn

from quantlab.errors import RequestError
from quantlab.models.latent_diffusion import convert, unet_of

UNET = {"image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "channel_mult": [1, 2]}
UNET |= {"num_res_blocks": 2, "attention_resolutions": [2]}
PIXELS = UNET | {"num_head_channels": 16}
CROSS = UNET | {"num_heads": 1, "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 24}
DECODER = {"embed_dim": 3, "n_embed": 16, "ddconfig": {"ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1}}
DECODER["ddconfig"] |= {"in_channels": 3, "out_ch": 3, "z_channels": 3, "resolution": 32, "attn_resolutions": []}
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def names(prefix, module, renamed=None):
    found = {}
    for name, tensor in module.state_dict().items():
        part = next((old for old in renamed or {} if name.startswith(f"{old}.")), None)
        found[f"{prefix}.{name if part is None else name.replace(part, renamed[part], 1)}"] = tensor
    return found


def attention(prefix, module):
    if not hasattr(module, "to_q"):
        return names(prefix, module)
    state = names(prefix, module.group_norm) | {}
    state = {key.replace(f"{prefix}.", f"{prefix}.norm."): tensor for key, tensor in state.items()}
    for kind in ("weight", "bias"):
        heads = [getattr(getattr(module, f"to_{name}"), kind).unflatten(0, (module.heads, -1)) for name in "qkv"]
        state[f"{prefix}.qkv.{kind}"] = torch.stack(heads, 1).flatten(0, 2)
        state[f"{prefix}.proj_out.{kind}"] = getattr(module.to_out[0], kind)
    for name in ("qkv", "proj_out"):
        state[f"{prefix}.{name}.weight"] = state[f"{prefix}.{name}.weight"][..., None]
    return {key: tensor.detach() for key, tensor in state.items()}


def unet_state(network):
    state = names("time_embed.0", network.time_embedding.linear_1) | names(
        "time_embed.2", network.time_embedding.linear_2
    )
    state |= names("input_blocks.0.0", network.conv_in) | names("out.0", network.conv_norm_out)
    state |= names("out.2", network.conv_out)
    number = 1
    for block in network.down_blocks:
        for layer, resnet in enumerate(block.resnets):
            state |= names(f"input_blocks.{number}.0", resnet, RESNET)
            if hasattr(block, "attentions"):
                state |= attention(f"input_blocks.{number}.1", block.attentions[layer])
            number += 1
        if block.downsamplers is not None:
            state |= names(f"input_blocks.{number}.0.op", block.downsamplers[0].conv)
            number += 1
    middle = network.mid_block
    state |= names("middle_block.0", middle.resnets[0], RESNET) | names("middle_block.2", middle.resnets[1], RESNET)
    state |= attention("middle_block.1", middle.attentions[0])
    number = 0
    for block in network.up_blocks:
        for layer, resnet in enumerate(block.resnets):
            state |= names(f"output_blocks.{number}.0", resnet, RESNET)
            attends = hasattr(block, "attentions")
            if attends:
                state |= attention(f"output_blocks.{number}.1", block.attentions[layer])
            if layer == len(block.resnets) - 1 and block.upsamplers is not None:
                state |= names(f"output_blocks.{number}.{1 + attends}.conv", block.upsamplers[0].conv)
            number += 1
    return {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}


def half(prefix, network, side):
    """Of the decoder or the encoder; the resolutions of the first are numbered from its end."""
    state = names(f"{prefix}.conv_in", network.conv_in) | names(f"{prefix}.conv_out", network.conv_out)
    state |= names(f"{prefix}.norm_out", network.conv_norm_out)
    blocks = network.down_blocks if side == "down" else network.up_blocks[::-1]
    for level, block in enumerate(blocks):
        for layer, resnet in enumerate(block.resnets):
            state |= names(f"{prefix}.{side}.{level}.block.{layer}", resnet, {"conv_shortcut": "nin_shortcut"})
        samplers = block.downsamplers if side == "down" else block.upsamplers
        if samplers is not None:
            state |= names(f"{prefix}.{side}.{level}.{side}sample.conv", samplers[0].conv)
    middle = network.mid_block
    state |= names(f"{prefix}.mid.block_1", middle.resnets[0]) | names(f"{prefix}.mid.block_2", middle.resnets[1])
    own = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    attended = names(f"{prefix}.mid.attn_1", middle.attentions[0], own)
    return state | {key: one[..., None, None] if one.ndim == 2 else one for key, one in attended.items()}


def decoder_state(network):
    state = half("encoder", network.encoder, "down") | half("decoder", network.decoder, "up")
    state |= names("quant_conv", network.quant_conv) | names("post_quant_conv", network.post_quant_conv)
    state["quantize.embedding.weight"] = network.quantize.embedding.weight.detach()
    return {f"first_stage_model.{key}": tensor for key, tensor in state.items()}


@functools.cache
def made(cross):
    torch.manual_seed(0)
    params = CROSS if cross else PIXELS
    sizes = {"sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [32, 64]}
    if params is PIXELS:
        blocks = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "attention_head_dim": 16}
        unet = UNet2DModel(**sizes, **blocks, up_block_types=["AttnUpBlock2D", "UpBlock2D"], layers_per_block=2)
    else:
        blocks = {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "attention_head_dim": 1}
        blocks |= {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 24}
        unet = UNet2DConditionModel(**sizes, **blocks, layers_per_block=2)
    decoder = VQModel(
        block_out_channels=[32, 64, 64],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=3,
        num_vq_embeddings=16,
    )
    return unet, decoder


def write(tmp_path, params, state):
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "model.ckpt")
    config = {"linear_start": 0.0015, "linear_end": 0.0195, "unet_config": {"params": params}}
    config |= {"first_stage_config": {"params": DECODER}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"params": config}}))
    return tmp_path / "model.ckpt", tmp_path / "config.yaml", tmp_path / "made"


@pytest.mark.parametrize("params", [PIXELS, CROSS])
def test_it_is_the_same_network_in_diffusers_format(params, tmp_path):
    unet, decoder = made(params is CROSS)
    state = unet_state(unet) | decoder_state(decoder)
    average = "input_blocks.1.0.in_layers.2.weight"
    state[f"model_ema.diffusion_model{average.replace('.', '')}"] = state[f"model.diffusion_model.{average}"] + 1
    if params is CROSS:
        state["cond_stage_model.embedding.weight"] = torch.randn(5, 24)
    (said,) = convert(*write(tmp_path, params, state))
    found = type(unet).from_pretrained(tmp_path / "made" / "unet").state_dict()
    expected = dict(unet.state_dict())
    expected["down_blocks.0.resnets.0.conv1.weight"] = expected["down_blocks.0.resnets.0.conv1.weight"] + 1
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    found = VQModel.from_pretrained(tmp_path / "made" / "vqvae")
    assert found.config.scaling_factor == 1
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in decoder.state_dict().items())
    table = tmp_path / "made" / "class_embedder" / "class_embedder.safetensors"
    assert table.is_file() == (params is CROSS) and ("with 5 classes" in said) == (params is CROSS)
    if params is CROSS:
        assert load_file(table)["embedding.weight"].shape == (5, 24)


def test_attention_over_pixels_is_that_of_the_paper():
    """Heads of q, k and v lie one after the other: of every head its q, its k, its v."""
    state = unet_state(made(False)[0])
    module = unet_of(state, PIXELS).mid_block.attentions[0]
    place, x = "model.diffusion_model.middle_block.1", torch.randn(2, 64, 4, 4)
    flat = nn.functional.group_norm(x.flatten(2), 32, state[f"{place}.norm.weight"], state[f"{place}.norm.bias"], 1e-5)
    qkv = nn.functional.conv1d(flat, state[f"{place}.qkv.weight"], state[f"{place}.qkv.bias"])
    q, k, v = qkv.reshape(2 * 4, 3 * 16, 16).split(16, 1)
    weight = torch.einsum("bct,bcs->bts", q / 2, k / 2).softmax(-1)
    mixed = torch.einsum("bts,bcs->bct", weight, v).reshape(2, 64, 16)
    own = x.flatten(2) + nn.functional.conv1d(mixed, state[f"{place}.proj_out.weight"], state[f"{place}.proj_out.bias"])
    torch.testing.assert_close(module(x).flatten(2), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"num_head_channels": -1, "num_heads": 8}, "got num_heads=8, allowed: num_head_channels"),
        ({"resblock_updown": True}, "got resblock_updown=True"),
        ({"model_channels": 64}, "the checkpoint does not fit its config"),
        ({"in_channels": None, "attention_resolutions": None}, "are not those of a model of latent-diffusion"),
    ],
)
def test_what_diffusers_has_no_network_for_is_refused(change, said, tmp_path):
    unet, decoder = made(False)
    files = write(tmp_path, PIXELS | change, unet_state(unet) | decoder_state(decoder))
    with pytest.raises(RequestError) as caught:
        convert(*files)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not [one for one in tmp_path.iterdir() if one.is_dir()]
