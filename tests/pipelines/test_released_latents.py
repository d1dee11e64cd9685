"""Latent diffusion as it was released (Rombach et al. 2022), tiny: CelebA-HQ and bedrooms with a VQ decoder, churches
with one with KL regularization, ImageNet with the embedding of a class as what cross-attention attends to.
"""

import json
import shutil

import pytest
import torch
from composed import composed
from run_files import results
from safetensors.torch import load_file, save_file

from quantlab.config import instantiate
from quantlab.diffusion.rollout import seeded_normal
from quantlab.diffusion.trajectories import WalkEnds
from quantlab.errors import RequestError
from quantlab.models.given import build_model
from quantlab.run.cache import Cache

own_images = pytest.importorskip("own_images")
from diffusers import AutoencoderKL, LDMPipeline, UNet2DConditionModel, UNet2DModel, VQModel  # noqa: E402
from tiny_pipelines import ddim  # noqa: E402

NOISE = {"beta_start": 0.0015, "beta_end": 0.0195, "steps_offset": 0}
LEVELS = {"layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8, "block_out_channels": (8, 16, 24, 32)}
PLAIN = {"down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3), "attention_head_dim": 8}
PLAIN |= {"up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D")}
CROSS = {"down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3), "cross_attention_dim": 16}
CROSS |= {"up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"), "attention_head_dim": 1}
CLASSES = 6  # the last is none


def decoder_blocks(levels):
    blocks = {"block_out_channels": [4] * levels, "norm_num_groups": 2}
    return blocks | {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def vq():
    return VQModel(**decoder_blocks(3), latent_channels=3, num_vq_embeddings=32, scaling_factor=1.0)


def celeba():
    return LDMPipeline(vq(), UNet2DModel(**LEVELS, **PLAIN), ddim(**NOISE))


def church():
    decoder = AutoencoderKL(**decoder_blocks(4), latent_channels=4)
    return LDMPipeline(decoder, UNet2DModel(**LEVELS, **PLAIN, in_channels=4, out_channels=4), ddim(**NOISE))


def imagenet():
    return LDMPipeline(vq(), UNet2DConditionModel(**LEVELS, **CROSS, in_channels=3, out_channels=3), ddim(**NOISE))


def saved(made, folder):
    torch.manual_seed(0)
    pipeline = made()
    pipeline.save_pretrained(folder)
    if made is imagenet:
        (folder / "class_embedder").mkdir()
        table = {"embedding.weight": torch.randn(CLASSES, 16)}
        save_file(table, folder / "class_embedder" / "class_embedder.safetensors")
    return folder


def open_model(name, directory, *words):
    config = composed("method=accuquant", f"model={name}", f"model.path={directory}", *words)
    return build_model(config.model, instantiate(config.task))


def drawn(denoiser, condition, tmp_path):
    denoiser.prepare(Cache(tmp_path / "cache"), "cpu")
    ends = WalkEnds(denoiser.network(), denoiser.sampler, condition, (2, *denoiser.shape), 7)[:2]
    return (denoiser.images(ends) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("name, made, side", [("ldm4_celeba", celeba, 32), ("ldm8_church", church, 64)])
def test_unconditional_ones_end_in_their_own_images(name, made, side, tmp_path, monkeypatch):
    directory = saved(made, tmp_path / "model")
    # written before diffusers 0.2, with keys that are gone
    file = directory / "scheduler" / "scheduler_config.json"
    old = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.1.2", "beta_schedule": "scaled_linear"}
    old |= {"beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False, "num_train_timesteps": 1000}
    file.write_text(json.dumps(old | {"tensor_format": "pt", "timestep_values": None, "trained_betas": None}))
    denoiser = open_model(name, directory, "model.sampler.steps=2", "method.group_size=1")
    found = drawn(denoiser, {}, tmp_path)
    own = own_images.draw(own_images.loaded(directory), "ldm", denoiser, {}, 7, monkeypatch, num_inference_steps=2)
    assert found.shape == (2, side, side, 3) and (found - torch.from_numpy(own)).abs().max() < 1e-5


def test_imagenet_is_guided_from_the_last_class(tmp_path):
    directory = saved(imagenet, tmp_path / "model")
    words = ("model.sampler.steps=2", "method.group_size=1", f"model.null_class={CLASSES - 1}")
    denoiser = open_model("ldm4_imagenet", directory, *words)
    assert denoiser.passes == 2 and denoiser.conditioning.count == CLASSES - 1
    condition = {"class_labels": torch.tensor([3, 0])}
    found = drawn(denoiser, condition, tmp_path)
    # as the released sampler does: e = e_none + 3 (e_class - e_none), with DDIM
    network = UNet2DConditionModel.from_pretrained(directory / "unet")
    table = load_file(directory / "class_embedder" / "class_embedder.safetensors")["embedding.weight"]
    scheduler, x = ddim(**NOISE), seeded_normal((2, 3, 8, 8), 7, 0)
    scheduler.set_timesteps(2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            with_class, without = (
                network(x, t, encoder_hidden_states=table[labels][:, None]).sample
                for labels in (condition["class_labels"], torch.tensor([CLASSES - 1] * 2))
            )
            x = scheduler.step(without + 3 * (with_class - without), t, x).prev_sample
        images = VQModel.from_pretrained(directory / "vqvae").decode(x).sample
    assert (found - (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)).abs().max() < 1e-5


@pytest.mark.slow
def test_imagenet_is_quantized(quantlab, tmp_path):
    directory = saved(imagenet, tmp_path / "model")
    words = ("method=accuquant", "model=ldm4_imagenet", f"model.path={directory}", f"model.null_class={CLASSES - 1}")
    small = ("model.sampler.steps=2", "task.evaluation.samples=2", "task.evaluation.step_error_samples=1")
    small += ("method.calibration.trajectories=2", "method.calibration.range_samples=1", "method.batch_size=2")
    small += ("method.group_size=1", "method.initialization.iterations=1", "method.iterations=1")
    small += ("quantizer.preset=q_diffusion", "quantizer.weight.scale_search=min_max")
    code, _, err = quantlab(
        *words, *small, "quantizer.activation.scale_search=min_max", f"output_dir={tmp_path / 'run'}"
    )
    assert code == 0, err
    assert 0 < results(tmp_path / "run")["metrics"]["mse_to_fp32"] < 1


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda folder: shutil.rmtree(folder), "there is no class_embedder/*.safetensors with the table"),
        (lambda folder: save_file({"a": torch.ones(4, 3)}, folder / "class_embedder.safetensors"), "holds a [4, 3]"),
    ],
)
def test_imagenet_without_its_embeddings_is_refused(change, said, tmp_path):
    directory = saved(imagenet, tmp_path / "model")
    change(directory / "class_embedder")
    with pytest.raises(RequestError) as caught:
        open_model("ldm4_imagenet", directory, "model.sampler.steps=2", "method.group_size=1", "model.null_class=5")
    (line,) = caught.value.problems
    assert said in line and "\n" not in line


def test_a_checkpoint_of_latent_diffusion_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    with pytest.raises(RequestError, match="model.ckpt is pickled, .* type python scripts/convert_latent_diffusion.py"):
        open_model("ldm4_celeba", tmp_path / "model.ckpt")
