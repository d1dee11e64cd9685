"""Files of weights, and a denoiser's directory with what its network outputs."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers_files import tiny_unet
from safetensors.torch import save_file

from quantlab.diffusion.rollout import seeded_normal


@pytest.fixture(scope="module")
def saved_denoiser(tmp_path_factory):
    """A sound directory, never changed."""
    root = tmp_path_factory.mktemp("saved")
    tiny_unet().save_pretrained(root / "unet")
    DDPMScheduler().save_pretrained(root / "scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def directory(saved_denoiser, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(saved_denoiser, tmp_path / "model")


@pytest.fixture(scope="module")
def expected_output():
    with torch.no_grad():
        return tiny_unet()(seeded_normal((2, 1, 8, 8), 1), 500).sample


@pytest.fixture
def file(tmp_path):
    """file(tensors) -> the path of a .safetensors file with them."""

    def write(tensors, name="w.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
        return str(tmp_path / name)

    return write
