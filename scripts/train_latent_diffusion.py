"""A small latent diffusion model (Rombach et al. 2022), trained here, as a pipeline of diffusers for `model=pipeline`.

    python scripts/train_latent_diffusion.py DIR --data-dir DATA      # MNIST at 16x16, minutes on one core
    quantlab method=accuquant model=pipeline model.path=DIR task=mnist_generation task.image_size=16 data_dir=DATA

First an autoencoder with KL regularization, whose latents are half as wide as the images, then an unconditional UNet of
latents. DIR holds both and DDIM's scheduler, as `LDMPipeline.save_pretrained` writes them. The seed is fixed.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from quantlab.config import instantiate, option_section
from quantlab.errors import RequestError
from quantlab.methods.pretrain import cosine_with_warmup, warmed_up_average
from quantlab.tasks.base import normalize

LATENT_CHANNELS = 3
KL_WEIGHT = 1e-4  # of the latents' divergence from a normal distribution; LDM's is 1e-6, on a sum over pixels
BATCH, WARMUP, EMA_DECAY = 64, 50, 0.995
DEFAULTS = {"task": "mnist_generation", "image_size": 16, "autoencoder_steps": 300, "steps": 1000}


def autoencoder(channels: int, image_size: int) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=image_size,
    )


def unet(side: int) -> nn.Module:
    """Of the sizes of model=ddim."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=side,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
    )


def trained(network: nn.Module, loss, count: int, steps: int, rate: float, what: str) -> nn.Module:
    """`network` with the average of its weights over `steps` updates by AdamW on `loss(rows)`, rows: int64 [BATCH] of
    `count`.
    """
    average = warmed_up_average(network, EMA_DECAY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    progress = tqdm(range(steps), what)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine_with_warmup(step, steps, WARMUP)
        value = loss(torch.randint(count, (BATCH,)))
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(network)
        progress.set_postfix(loss=f"{value.item():.4f}", refresh=False)
    network.load_state_dict(average.module.state_dict())
    return network.eval().requires_grad_(False)


def train_autoencoder(images: Tensor, steps: int) -> nn.Module:
    """images: uint8 [N, C, H, W]. Its scaling_factor gives latents a variance of 1."""
    network = autoencoder(images.shape[1], images.shape[-1])

    def loss(rows: Tensor) -> Tensor:
        x = normalize(images[rows])
        latents = network.encode(x).latent_dist
        return F.mse_loss(network.decode(latents.sample()).sample, x) + KL_WEIGHT * latents.kl().mean()

    trained(network, loss, len(images), steps, 2e-3, "autoencoder")
    network.register_to_config(scaling_factor=1 / float(encoded(network, images[:1024]).std()))
    return network


@torch.no_grad()
def encoded(network: nn.Module, images: Tensor) -> Tensor:
    """The means of the latents, unscaled: float32 [N, LATENT_CHANNELS, H/2, W/2]."""
    return torch.cat([network.encode(normalize(part)).latent_dist.mean for part in images.split(256)])


def train_unet(latents: Tensor, scheduler, steps: int) -> nn.Module:
    """latents: float32 [N, C, h, w], scaled; it predicts the noise (Ho et al. 2020, Eq. 14)."""
    network = unet(latents.shape[-1])

    def loss(rows: Tensor) -> Tensor:
        noise, t = torch.randn_like(latents[rows]), torch.randint(scheduler.config.num_train_timesteps, (BATCH,))
        return F.mse_loss(network(scheduler.add_noise(latents[rows], noise, t), t).sample, noise)

    return trained(network, loss, len(latents), steps, 2e-3, "UNet of latents")


def make(target: Path, options: argparse.Namespace) -> None:
    """Train both and write `target`, whole or not at all. Raises RequestError where the data is not there."""
    from diffusers import DDIMScheduler, LDMPipeline

    if target.exists() or not target.parent.is_dir():
        raise RequestError(f"got {target} to write, allowed: a new directory in one that is there; type another name")
    changes = {"image_size": options.image_size} | ({"data_dir": options.data_dir} if options.data_dir else {})
    images = instantiate(option_section("task", options.task, changes)).images()
    torch.manual_seed(0)
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    decoder = train_autoencoder(images, options.autoencoder_steps)
    latents = encoded(decoder, images) * decoder.config["scaling_factor"]
    pipeline = LDMPipeline(decoder, train_unet(latents, scheduler, options.steps), scheduler)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pipeline.save_pretrained(Path(folder) / "made")
        os.replace(Path(folder) / "made", target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the directory to write")
    parser.add_argument("--data-dir", help="where the task's data is")
    parser.add_argument("--task", default=DEFAULTS["task"], help="a generation task (%(default)s)")
    parser.add_argument("--image-size", type=int, default=DEFAULTS["image_size"], help="pixels (%(default)s)")
    parser.add_argument("--autoencoder-steps", type=int, default=DEFAULTS["autoencoder_steps"], help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=DEFAULTS["steps"], help="of the UNet (%(default)s)")
    options = parser.parse_args()
    try:
        make(options.target.expanduser(), options)
    except RequestError as error:
        print(f"train_latent_diffusion: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
