"""Denoisers of diffusers' classes: a UNet2DModel, the noise it was trained with, and the walk it is sampled with."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from quantlab.checkpoint import tensors_digest
from quantlab.diffusion.rollout import Schedule, seeded_normal
from quantlab.errors import RequestError
from quantlab.models.diffusers_directory import NETWORK, ONLY, read_directory
from quantlab.models.diffusers_scheduler import alphas_cumprod
from quantlab.models.timm_classifier import first_line
from quantlab.models.weight_names import match

# The attention layers of a UNet2DModel, by their names before diffusers 0.15.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Denoiser(nn.Module):
    """An epsilon-predicting network eps(x_t, t), its alphas and its sampling schedule.

    unet: any network called as unet(x, t).sample; alphas_cumprod: float [train_timesteps]; schedule: the sampling walk.
    """

    kind = "denoiser"
    has_weights = False         # whether they are the full precision, or still to be trained
    weights_from: str | None = None     # where they were loaded from, in words
    notes: Sequence[str] = ()   # what a user should know of how the model was read

    def __init__(self, unet: nn.Module, alphas_cumprod: Tensor, schedule: Schedule):
        super().__init__()
        self.unet = unet
        unet.present_form = present_form
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

    def fingerprint(self) -> str:
        """sha256 (hex) of all that shapes eps and its noise: weights, config and alphas. Under another config the
        same weights are another function."""
        config = {name: value for name, value in self.unet.config.items() if not name.startswith("_")}
        facts = [tensors_digest(self.unet.state_dict()), config, self.alphas_cumprod.tolist()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


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

    Only safetensors weights are read; with `section.weights` none are, since those of that file replace them. Of a
    network that puts out its variance too (Nichol and Dhariwal 2021, Sec. 3.1), the half that is epsilon is kept.
    Raises RequestError in one line where nothing can be found, for a model of another kind or of other images than the
    task's, and for whatever is wrong with its files.
    """
    found = read_directory(section.path)
    where, schedule_at = (f"model.path: {file}" for file in (found.folder / "config.json", found.scheduler_file))
    channels, learned_variance = _require_fitting(found.network, section, task, where)
    alphas = alphas_cumprod(found.scheduler, schedule_at)
    schedule = _schedule(alphas, section.sampler, schedule_at)
    unet = _build(found.network | {"out_channels": channels, "sample_size": task.image_size}, where)
    denoiser = Denoiser(unet, alphas, schedule)
    own = found.scheduler["_class_name"] + " with clip_sample=true" * bool(found.scheduler.get("clip_sample"))
    denoiser.notes = [f"walks are DDIM's, as model.sampler says; its own scheduler is {own}"]
    if learned_variance:
        denoiser.notes.append("the variance that it learned is left out, as the sampler has its own")
    if found.folder == found.root / "unet_ema":
        denoiser.notes.append("there is no folder unet, so unet_ema was read")
    elif (found.root / "unet_ema").is_dir():
        denoiser.notes.append(f"an average lies beside it; for that type model.path={found.root / 'unet_ema'}")
    if section.weights is None:
        tensors, file = found.weights()
        matched = match(tensors, unet, f"model.path: {file}")
        unet.load_state_dict(matched.tensors)
        denoiser.notes += matched.notes
        denoiser.weights_from = f"{file}, revision {found.root.name} of {found.hub}" if found.hub else str(file)
        denoiser.has_weights = True
    _try_once(unet, task, schedule, where)
    return denoiser


def present_form(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors as the network has them today, whose state dict is `own`.

    Attention layers had other names before diffusers 0.15; of an output with a variance the half that is epsilon is
    kept.
    """
    present = {}
    for name, tensor in tensors.items():
        *outer, layer, kind = ("", *name.split("."))
        if "attentions" in outer and layer in RENAMED:
            name = ".".join([*outer, RENAMED[layer], kind]).removeprefix(".")
        epsilon = own.get(f"conv_out.{kind}")
        if layer == "conv_out" and epsilon is not None and len(tensor) == 2 * len(epsilon):
            tensor = tensor[: len(epsilon)]
        present[name] = tensor
    return present


def _schedule(alphas: Tensor, sampler, where: str) -> Schedule:
    """The walk of `sampler`.

    Raises RequestError for more steps than the model was trained with, and where the walk starts at abar = 0: that
    state is noise alone, and epsilon says nothing of the image.
    """
    if sampler.steps > len(alphas):
        raise RequestError(f"model.sampler.steps: got {sampler.steps}, allowed: up to the {len(alphas)} "
                           f"(num_train_timesteps) of {where.removeprefix('model.path: ')}; type "
                           f"model.sampler.steps={len(alphas)}")
    schedule = Schedule.build(alphas, sampler)
    if 0 in schedule.alphas:
        raise RequestError(f"{where}: its last timestep has no signal at all (rescale_betas_zero_snr), and the walk of "
                           f"{sampler.steps} steps starts there, allowed: one that leaves it out; type "
                           f"model.sampler.steps={len(alphas) // 2}")
    return schedule


def _require_fitting(config: dict, section, task, where: str) -> tuple[int, bool]:
    """Channels of the images, and whether the network puts out a variance too.

    Raises RequestError for a network that is not eps(x, t) of the task's images.
    """
    for condition in ("num_class_embeds", "class_embed_type"):
        if config.get(condition) is not None:
            given = f"{condition}={config[condition]}"
            raise RequestError(f"{where}: the network needs a class for each image ({given}); {ONLY}")
    channels, put_out = config.get("in_channels", 3), config.get("out_channels", 3)
    if put_out not in (channels, 2 * channels):
        raise RequestError(f"{where}: the network makes {put_out} channels of {channels}, allowed: as many (epsilon), "
                           "or twice as many (epsilon and variance); give another model.path")
    size = config.get("sample_size")
    if size is None:
        raise RequestError(f"{where}: it does not say for which images the network was trained (sample_size); if for "
                           f'{task.image_size} x {task.image_size}, write "sample_size": {task.image_size} there')
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if (channels, height, width) != (task.channels, task.image_size, task.image_size):
        resized = channels == task.channels and height == width
        fitting = f"type task.image_size={height}" if resized else "choose another task"
        raise RequestError(f"{where}: model={section.name} makes {channels} x {height} x {width} images; "
                           f"task={task.name} has {task.channels} x {task.image_size} x {task.image_size}; "
                           f"{fitting}, or give another model.path")
    return channels, put_out != channels


def _build(config: dict, where: str) -> nn.Module:
    """The UNet2DModel of `config`, with random weights. Raises RequestError where diffusers cannot build it."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    known = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        return UNet2DModel.from_config(known)
    except (ArithmeticError, LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(f"{where}: diffusers cannot build this {NETWORK} ({first_line(error)}); correct "
                           "it") from error


@torch.no_grad()
def _try_once(unet: nn.Module, task, schedule: Schedule, where: str) -> None:
    """One image through the network at the walk's first and last timestep: what does not work fails here."""
    shape, training = (1, task.channels, task.image_size, task.image_size), unet.training
    another = "choose another task.image_size or another model.path"
    for t in (schedule.timesteps[0], schedule.timesteps[-1]):
        try:
            out = unet.eval()(seeded_normal(shape, 0), t).sample
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            images = f"{task.channels} x {task.image_size} x {task.image_size} images"
            raise RequestError(f"{where}: the network does not take {images} and a timestep ({first_line(error)}); "
                               f"{another}") from error
        if out.shape != shape:
            raise RequestError(f"{where}: the network makes {list(out.shape)} of {list(shape)}; {another}")
        if not out.isfinite().all():
            raise RequestError(f"{where}: the network puts out NaN or infinity for standard normal noise at timestep "
                               f"{t}; give another checkpoint")
    unet.train(training)


def shortcut_splits(unet: nn.Module) -> dict[str, int]:
    """Channels of the up-path's own half where a shortcut convolution reads the concatenation with a skip connection.

    Keys are module names. In a UNet's up block, resnet j reads cat([hidden, skip]); hidden has as many channels as the
    layer before it put out (Q-Diffusion, Sec. 4.2: the two halves have different ranges).
    """
    splits = {}
    deepest = unet.mid_block if unet.mid_block is not None else unet.down_blocks[-1]
    hidden = deepest.resnets[-1].out_channels
    for i, block in enumerate(unet.up_blocks):
        for j, resnet in enumerate(block.resnets):
            if resnet.conv_shortcut is not None and resnet.in_channels > hidden:
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
