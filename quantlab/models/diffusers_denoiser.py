"""Denoisers built from diffusers' classes: a UNet2DModel, the noise it was trained with, and the walk it is sampled with."""

from pathlib import Path

import torch
from torch import Tensor, nn

from quantlab.diffusion.rollout import Schedule, seeded_normal
from quantlab.errors import RequestError


class Denoiser(nn.Module):
    """An epsilon-predicting network eps(x_t, t), its alphas and its sampling schedule.

    unet: any network called as unet(x, t).sample; alphas_cumprod: float [train_timesteps]; schedule: the sampling walk.
    """

    kind = "denoiser"

    def __init__(self, unet: nn.Module, alphas_cumprod: Tensor, schedule: Schedule):
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss (a scalar), so that data-parallel wrappers, which hook `forward`, see it."""
        return self.training_loss(batch)

    def training_loss(self, batch: dict[str, Tensor], noise: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Mean squared error of eps at random timesteps (Ho et al. 2020, Eq. 14). batch["image"]: [N, C, H, W]."""
        x0 = batch["image"]
        t = torch.randint(len(self.alphas_cumprod), (len(x0),), device=x0.device) if t is None else t
        noise = torch.randn_like(x0) if noise is None else noise
        alpha = self.alphas_cumprod[t][:, None, None, None]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        return (self.unet(x, t).sample - noise).square().mean()

    @torch.no_grad()
    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss at fixed noise and evenly spaced timesteps: comparable from one checkpoint to the next."""
        x0 = batch["image"]
        t = torch.linspace(0, len(self.alphas_cumprod) - 1, len(x0)).long().to(x0.device)
        return self.training_loss(batch, seeded_normal(x0.shape, 0).to(x0), t)

    def weights(self) -> nn.Module:
        """The part of this model that a checkpoint holds."""
        return self.unet


def network_of(unet: nn.Module):
    """`unet` as a `rollout.Network`: eps of x [N, C, H, W] at timestep t (an int)."""

    def network(x: Tensor, t: int, i: int) -> Tensor:
        return unet(x, t).sample

    return network


def build_ddim(section, task) -> Denoiser:
    """A fresh UNet2DModel of the size the config says, for the task's images, with DDIM's noise schedule."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    net, noise = section.unet, section.noise_schedule
    down = ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in net.attention]
    up = ["AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(net.attention)]
    smallest = 2 ** (len(net.block_out_channels) - 1)
    if task.image_size % smallest:
        raise RequestError(
            f"model.unet.block_out_channels: {len(net.block_out_channels)} resolutions need an image size divisible by "
            f"{smallest}; got task.image_size={task.image_size}"
        )
    unet = UNet2DModel(
        sample_size=task.image_size, in_channels=task.channels, out_channels=task.channels,
        block_out_channels=tuple(net.block_out_channels), layers_per_block=net.layers_per_block,
        down_block_types=tuple(down), up_block_types=tuple(up), attention_head_dim=net.attention_head_dim,
        norm_num_groups=net.norm_num_groups, dropout=net.dropout,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=noise.train_timesteps, beta_schedule=noise.beta_schedule,
        beta_start=noise.beta_start, beta_end=noise.beta_end,
    )
    return Denoiser(unet, scheduler.alphas_cumprod, Schedule.build(scheduler.alphas_cumprod, section.sampler))


def load_pretrained(section, task) -> Denoiser:
    """A UNet2DModel in diffusers' format, from a local directory or the hub, with the noise schedule stored beside it.

    Only safetensors weights are read. Raises RequestError if nothing can be found or the images do not fit the task.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    local = Path(section.path).expanduser()
    folder = "unet" if (local / "unet").is_dir() else None
    source = str(local) if local.is_dir() else section.path
    try:
        unet = UNet2DModel.from_pretrained(source, subfolder=folder, use_safetensors=True)
        scheduler_folder = "scheduler" if (local / "scheduler").is_dir() else None
        scheduler = DDIMScheduler.from_pretrained(source, subfolder=scheduler_folder)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"model.path: no diffusers model with safetensors weights at '{section.path}', and it could not be fetched from "
            f"the hub ({str(error).strip().splitlines()[0][:160]}); on a machine with a connection type "
            f"'hf download {section.path} --local-dir DIR', then here model.path=DIR"
        ) from error
    if scheduler.config.prediction_type != "epsilon":
        raise RequestError(f"model.path: only epsilon-prediction works; this model predicts {scheduler.config.prediction_type}")
    expected = (unet.config.in_channels, unet.config.sample_size)
    if expected != (task.channels, task.image_size):
        raise RequestError(
            f"model={section.name} makes {expected[0]} x {expected[1]} x {expected[1]} images; task={task.name} has "
            f"{task.channels} x {task.image_size} x {task.image_size}; choose another task or task.image_size"
        )
    return Denoiser(unet, scheduler.alphas_cumprod, Schedule.build(scheduler.alphas_cumprod, section.sampler))


def shortcut_splits(unet: nn.Module) -> dict[str, int]:
    """Channels of the up-path's own half where a shortcut convolution reads the concatenation with a skip connection.

    Keys are module names. In a UNet's up block, resnet j reads cat([hidden, skip]); hidden has as many channels as the
    layer before it put out (Q-Diffusion, Sec. 4.2: the two halves have different ranges).
    """
    splits = {}
    hidden = unet.mid_block.resnets[-1].out_channels if getattr(unet, "mid_block", None) is not None else None
    for i, block in enumerate(getattr(unet, "up_blocks", [])):
        for j, resnet in enumerate(block.resnets):
            if hidden is not None and resnet.conv_shortcut is not None and resnet.in_channels > hidden:
                splits[f"up_blocks.{i}.resnets.{j}.conv_shortcut"] = hidden
            hidden = resnet.out_channels
    return splits


def reconstruction_units(unet: nn.Module) -> list[str]:
    """Names of the parts that block reconstruction treats as one, in the order of the forward pass of the network.

    Q-Diffusion: residual blocks and attention blocks; every other layer by itself (those are added by the caller).
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    return [name for name, module in unet.named_modules() if isinstance(module, (ResnetBlock2D, Attention))]
