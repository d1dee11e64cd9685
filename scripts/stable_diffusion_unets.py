"""The UNets of Stable Diffusion 1.x and SDXL, by the names `sd14` and `sdxl`, with random weights, and what they are
called with; `small`: of the same parts, with a few thousand weights.
"""

from typing import Any

NETWORKS: dict[str, dict[str, Any]] = {
    "sd14": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "sd14": {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": (2, 2),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1),
    },
}


def config_of(options: dict) -> dict[str, Any]:
    return NETWORKS[options["network"]] | (SMALL[options["network"]] if options["small"] else {})


def random_unet(options: dict, device):
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel(**config_of(options))
    unet.to_empty(device=device)
    for parameter in unet.parameters():
        parameter.requires_grad_(False)
        parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    if options["checkpointing"]:
        unet.enable_gradient_checkpointing()
    return unet.eval()


def condition_of(options: dict, device) -> dict[str, Any]:
    import torch

    config = config_of(options)
    text = {"encoder_hidden_states": torch.randn(1, 77, config["cross_attention_dim"], device=device)}
    if options["network"] == "sd14":
        return text
    sizes = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device=device)
    return text | {"added_cond_kwargs": {"text_embeds": torch.randn(1, 1280, device=device), "time_ids": sizes}}
