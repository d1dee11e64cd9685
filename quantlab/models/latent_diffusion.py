"""A checkpoint of latent-diffusion (Rombach et al. 2022) as a pipeline in diffusers' format, for
`scripts/convert_latent_diffusion.py`: names and layouts of its tensors, and its config.

    model.diffusion_model.   the UNet: input_blocks, middle_block, output_blocks, numbered through all resolutions
    model_ema.               the average of its weights, which the paper samples with; names without dots
    first_stage_model.       the decoder, VQ or KL
    cond_stage_model.        of ImageNet: the embeddings of classes
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.models.pickled_weights import read_pickle

UNET, EMA, DECODER, EMBEDDINGS = (
    "model.diffusion_model.",
    "model_ema.",
    "first_stage_model.",
    "cond_stage_model.embedding.weight",
)
IN_A_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def convert(source: Path, config: Path, target: Path) -> list[str]:
    """Write the checkpoint `source`, with its config (YAML), as a pipeline into the new directory `target`; returns
    messages for the user. Raises RequestError in one line; nothing half-written is left.
    """
    if target.exists() or not target.parent.is_dir():
        raise RequestError(f"got {target} to write, allowed: a new directory in one that is there; type another name")
    content = read_pickle(source)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    try:
        params = yaml.safe_load(config.read_text())["model"]["params"]
        unet = unet_of(state, params["unet_config"]["params"])
        decoder = decoder_of(state, params["first_stage_config"]["params"])
        noise = {"beta_start": params["linear_start"], "beta_end": params["linear_end"]}
    except (OSError, yaml.YAMLError) as error:
        raise RequestError(
            f"{config} cannot be read ({str(error).splitlines()[0]}), allowed: the YAML beside it"
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{config} and {source} are not those of a model of latent-diffusion ({type(error).__name__}: {error})"
        ) from error
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _write(Path(folder) / "made", unet, decoder, noise, state.get(EMBEDDINGS))
        os.replace(Path(folder) / "made", target)
    kind = "without classes" if EMBEDDINGS not in state else f"with {len(state[EMBEDDINGS])} classes"
    return [
        f"{target}: {type(unet).__name__} {kind}, {type(decoder).__name__}; now type model=pipeline model.path={target}"
    ]


def _write(folder: Path, unet: Any, decoder: Any, noise: Mapping[str, float], embeddings: Tensor | None) -> None:
    """Steps and ends of walks are those of the released DDIM sampler."""
    from diffusers import DDIMScheduler, LDMPipeline

    scheduler = DDIMScheduler(
        **noise, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    LDMPipeline(decoder, unet, scheduler).save_pretrained(folder)
    if embeddings is not None:
        (folder / "class_embedder").mkdir()
        save_file(
            {"embedding.weight": embeddings.contiguous()}, folder / "class_embedder" / "class_embedder.safetensors"
        )


def unet_of(state: Mapping[str, Tensor], params: Mapping[str, Any]) -> nn.Module:
    """The UNet of a checkpoint's state dict; params: those of `unet_config` in its config. The average of its weights,
    where there is one. Raises: RequestError for what diffusers has no network for.
    """
    import diffusers

    name, config = _unet_config(params)
    network: nn.Module = getattr(diffusers, name)(**config)
    width = config["attention_head_dim"] if name == "UNet2DModel" else None
    tensors: dict[str, Tensor] = {}
    for key in (key.removeprefix(UNET) for key in state if key.startswith(UNET)):
        average = f"{EMA}diffusion_model{key.replace('.', '')}"
        tensors |= _renamed(key, state.get(average, state[UNET + key]), params["num_res_blocks"], width)
    _load(network, tensors)
    return network


def decoder_of(state: Mapping[str, Tensor], params: Mapping[str, Any]) -> nn.Module:
    """The decoder, and its encoder; params: those of `first_stage_config`. A latent is scaled by what the checkpoint
    says, and otherwise by 1.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    sizes, scale = params["ddconfig"], state.get("scale_factor")
    levels = len(sizes["ch_mult"])
    config = {
        "in_channels": sizes["in_channels"],
        "out_channels": sizes["out_ch"],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [sizes["ch"] * factor for factor in sizes["ch_mult"]],
        "latent_channels": sizes["z_channels"],
        "layers_per_block": sizes["num_res_blocks"],
        "sample_size": sizes["resolution"],
        "scaling_factor": 1.0 if scale is None else float(scale),
    }
    if sizes.get("attn_resolutions"):
        raise RequestError(
            f"first_stage_config: got attn_resolutions={sizes['attn_resolutions']}, allowed: none, as in diffusers"
        )
    if "n_embed" in params:
        made = diffusers.VQModel(**config, num_vq_embeddings=params["n_embed"], vq_embed_dim=params["embed_dim"])
    else:
        made = diffusers.AutoencoderKL(**config)
    own = {key: tensor for key, tensor in state.items() if key.startswith(DECODER)}
    tensors = convert_ldm_vae_checkpoint(own, config)
    if (codebook := own.get(f"{DECODER}quantize.embedding.weight")) is not None:
        tensors["quantize.embedding.weight"] = codebook
    _load(made, tensors)
    return made


def _load(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise RequestError(f"the checkpoint does not fit its config: {str(error).splitlines()[1].strip()}") from error


def _unet_config(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    attends = [2**level in params["attention_resolutions"] for level in range(len(params["channel_mult"]))]
    cross = bool(params.get("use_spatial_transformer"))
    for key in ("use_scale_shift_norm", "resblock_updown", "num_classes"):
        if params.get(key):
            raise RequestError(f"unet_config: got {key}={params[key]}, which no UNet of diffusers has in this form")
    width = params.get("num_head_channels", -1)
    if not cross and width == -1:
        raise RequestError(
            f"unet_config: got num_heads={params.get('num_heads')}, allowed: num_head_channels, since heads of a"
            " UNet2DModel are of one width"
        )
    kind = "CrossAttn" if cross else "Attn"
    config = {
        "sample_size": params["image_size"],
        "in_channels": params["in_channels"],
        "out_channels": params["out_channels"],
        "layers_per_block": params["num_res_blocks"],
        "block_out_channels": [params["model_channels"] * factor for factor in params["channel_mult"]],
        "down_block_types": [f"{kind if attending else ''}DownBlock2D" for attending in attends],
        "up_block_types": [f"{kind if attending else ''}UpBlock2D" for attending in reversed(attends)],
        "attention_head_dim": width,
    }
    if not cross:
        return "UNet2DModel", config
    # diffusers calls the number of heads their width
    heads = params["num_heads"] if width == -1 else [one // width for one in config["block_out_channels"]]
    config |= {"attention_head_dim": heads, "cross_attention_dim": params["context_dim"]}
    return "UNet2DConditionModel", config | {"transformer_layers_per_block": params.get("transformer_depth", 1)}


def _renamed(key: str, tensor: Tensor, resnets: int, width: int | None) -> dict[str, Tensor]:
    """A tensor of the UNet by diffusers' name; resnets: of a resolution on the way down; width: of heads of attention
    over pixels, None where there are spatial transformers.
    """
    outside = next((old for old in OUTSIDE if key.startswith(f"{old}.")), None)
    if outside is not None:
        return {key.replace(outside, OUTSIDE[outside], 1): tensor}
    side, *numbers, rest = re.fullmatch(r"(input|middle|output)_block(?:s\.(\d+))?\.(\d+)\.(.+)", key).groups()  # type: ignore[union-attr]
    number, module = int(numbers[0] or 0), int(numbers[1])
    resnet = next((old for old in IN_A_RESNET if rest.startswith(f"{old}.")), None)
    part = "attentions" if resnet is None else "resnets"
    if side == "middle":
        place = f"mid_block.{part}.{module // 2}"
    else:
        block, layer = divmod(number - (side == "input"), resnets + 1)
        place = f"{'down' if side == 'input' else 'up'}_blocks.{block}"
        if rest.startswith(("op.", "conv.")):
            sampler = "downsamplers" if side == "input" else "upsamplers"
            return {f"{place}.{sampler}.0.conv.{rest.partition('.')[2]}": tensor}
        place = f"{place}.{part}.{layer}"
    if resnet is not None:
        return {f"{place}.{rest.replace(resnet, IN_A_RESNET[resnet], 1)}": tensor}
    return _of_attention(place, rest, tensor, width)


def _of_attention(place: str, rest: str, tensor: Tensor, width: int | None) -> dict[str, Tensor]:
    """Of a spatial transformer as it is; of attention over pixels the rows of q, k and v lie head by head."""
    if width is None:
        return {f"{place}.{rest}": tensor}
    layer, _, kind = rest.partition(".")
    tensor = tensor[..., 0] if tensor.ndim == 3 else tensor  # of a convolution over a sequence
    if layer == "qkv":
        rows = tensor.unflatten(0, (-1, 3, width))
        return {f"{place}.to_{name}.{kind}": rows[:, i].flatten(0, 1) for i, name in enumerate("qkv")}
    return {f"{place}.{'group_norm' if layer == 'norm' else 'to_out.0'}.{kind}": tensor}
