"""Diffusers pipelines of every kind, tiny and with random weights, built without a connection and saved to a folder."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BLOCKS = {"block_out_channels": (16, 32), "layers_per_block": 1, "sample_size": 8, "norm_num_groups": 8}
CROSS = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
PLAIN = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


def ddim(**options):
    return DDIMScheduler(**NOISE | {"clip_sample": False, "steps_offset": 1} | options)


def pndm():
    return PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)


def euler():
    return EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1)


def flow(**options):
    return FlowMatchEulerDiscreteScheduler(**options)


def clip_tokenizer() -> CLIPTokenizer:
    """Of a vocabulary of bytes without merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip(projected: bool = False, size: int = 32) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=size,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=1,
        projection_dim=32,
        hidden_act="gelu",
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def save_clip(folder: Path) -> Path:
    """Both towers of a tiny CLIP, with its tokenizer and its processor of images."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    pixels = {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**sizes, **words}, vision_config={**sizes, **pixels}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def t5_tokenizer() -> T5TokenizerFast:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("\u2581", -3.0)]
    return T5TokenizerFast(vocab=[*vocabulary, *((chr(code), -5.0) for code in range(33, 127))], extra_ids=0)


def t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)).eval()


def autoencoder(latent_channels: int = 4, **options) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    ).eval()


def ddpm():
    return DDPMPipeline(UNet2DModel(**BLOCKS, **PLAIN).eval(), DDPMScheduler())


def ldm(**options):
    decoder = VQModel(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=3,
        norm_num_groups=4,
    )
    return LDMPipeline(decoder.eval(), UNet2DModel(**BLOCKS, **PLAIN, **options).eval(), ddim(steps_offset=0))


def dit():
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return DiTPipeline(transformer.eval(), autoencoder(), ddim(steps_offset=0))


def sd():
    unet = UNet2DConditionModel(**BLOCKS, **CROSS, cross_attention_dim=32, attention_head_dim=4)
    return StableDiffusionPipeline(
        autoencoder(), clip(), clip_tokenizer(), unet.eval(), pndm(), None, None, requires_safety_checker=False
    )


def sdxl():
    unet = UNet2DConditionModel(
        **BLOCKS,
        **CROSS,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
    )
    texts = (clip(), clip(projected=True), clip_tokenizer(), clip_tokenizer())
    return StableDiffusionXLPipeline(autoencoder(), *texts, unet.eval(), euler(), add_watermarker=False)


def sd3():
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=16,
    )
    decoder = autoencoder(shift_factor=0.06, scaling_factor=1.5)
    texts = (clip(projected=True), clip_tokenizer(), clip(projected=True), clip_tokenizer(), t5(), t5_tokenizer())
    return StableDiffusion3Pipeline(transformer.eval(), flow(shift=3.0), decoder, *texts)


def flux():
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=[4, 4, 8],
    )
    decoder = autoencoder(shift_factor=0.1, scaling_factor=0.5, use_quant_conv=False, use_post_quant_conv=False)
    texts = (clip(), clip_tokenizer(), t5(), t5_tokenizer())
    return FluxPipeline(flow(use_dynamic_shifting=True, base_image_seq_len=4), decoder, *texts, transformer.eval())


def pixart():
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(t5_tokenizer(), t5(), autoencoder(), transformer.eval(), DPMSolverMultistepScheduler())


KINDS = {"ddpm": ddpm, "ldm": ldm, "dit": dit, "sd": sd, "sdxl": sdxl, "pixart": pixart, "sd3": sd3, "flux": flux}


def save(kind: str, folder: Path, **options) -> Path:
    """The pipeline of that kind in `folder`, always the same."""
    torch.manual_seed(0)
    pipeline = KINDS[kind](**options)
    pipeline.save_pretrained(folder / kind)
    return folder / kind
