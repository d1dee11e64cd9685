"""A small denoiser in diffusers' format, how it is loaded, and how its directory is changed."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from quantlab.diffusion.rollout import seeded_normal
from quantlab.errors import RequestError
from quantlab.models.diffusers_denoiser import load_pretrained

WEIGHTS = "diffusion_pytorch_model.safetensors"
TASK = SimpleNamespace(name="digits_generation", channels=1, image_size=8, classes=10)
GUIDANCE = SimpleNamespace(scale=1.0, batched=True)
SAMPLER = SimpleNamespace(name="ddim", steps=4, eta=0.0, spacing="uniform", clip_sample=False)


def tiny_unet(**options):
    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**sizes | options).eval()


def load(path, weights=None, sampler=SAMPLER, task=TASK, guidance=GUIDANCE):
    return load_pretrained(
        SimpleNamespace(name="ddpm_cifar10", path=str(path), weights=weights, sampler=sampler, guidance=guidance), task
    )


def refusal(path, **options):
    with pytest.raises(RequestError) as caught:
        load(path, **options)
    (line,) = caught.value.problems
    assert "\n" not in line and "hub" not in line, line
    return line


def edit(file, **values):
    """The JSON `file` with these values; None takes a key away."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def configured(name, **values):
    return lambda directory: edit(directory / name, **values)


def changed_tensors(change):
    def apply(directory):
        file = directory / "unet" / WEIGHTS
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return apply


def shards(directory):
    folder = directory / "unet"
    tensors = sorted(load_file(folder / WEIGHTS).items())
    (folder / WEIGHTS).unlink()
    parts = {f"diffusion_pytorch_model-0000{i}-of-00002.safetensors": dict(tensors[i - 1 :: 2]) for i in (1, 2)}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return directory


def eps(denoiser):
    with torch.no_grad():
        return denoiser.unet(seeded_normal((2, 1, 8, 8), 1), 500).sample
