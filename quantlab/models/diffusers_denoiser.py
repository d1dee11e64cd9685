"""Denoisers built from diffusers' classes: a UNet2DModel, its noise schedule, and its sampler."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantlab.diffusion.conditioning import Classes, Guidance
from quantlab.diffusion.denoiser import Denoiser
from quantlab.diffusion.rollout import seeded_normal
from quantlab.diffusion.samplers import build_sampler
from quantlab.errors import RequestError
from quantlab.models.diffusers_directory import NETWORK, ONLY, read_directory
from quantlab.models.diffusers_scheduler import flow_levels, noise_levels
from quantlab.models.scheduler_sampler import sampler_of
from quantlab.models.timm_classifier import first_line
from quantlab.models.weight_names import match

# By class; where one is inside another, the outer. Not every version of diffusers has all of them
UNITS = (
    "ResnetBlock2D",
    "BasicTransformerBlock",
    "Attention",
    "JointTransformerBlock",
    "SD3SingleTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
)
# Attention layers of a UNet2DModel, by their names before diffusers 0.15
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def build_ddim(section, task) -> Denoiser:
    """A new UNet2DModel with the config's sizes, for the task's images, with DDIM's noise schedule."""
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
    classes = None
    if section.class_conditional:
        if task.classes is None:
            raise RequestError(
                f"model.class_conditional: got true, but task={task.name} has no labels; type"
                " model.class_conditional=false"
            )
        guidance = Guidance(section.guidance.scale, section.guidance.batched)
        classes = Classes(task.classes, task.classes, guidance, section.class_dropout)
    unet = UNet2DModel(
        sample_size=task.image_size,
        in_channels=task.channels,
        out_channels=task.channels,
        block_out_channels=tuple(net.block_out_channels),
        layers_per_block=net.layers_per_block,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=net.attention_head_dim,
        norm_num_groups=net.norm_num_groups,
        dropout=net.dropout,
        num_class_embeds=None if classes is None else classes.count + 1,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=noise.train_timesteps,
        beta_schedule=noise.beta_schedule,
        beta_start=noise.beta_start,
        beta_end=noise.beta_end,
    )
    unet.current_state_dict = current_state_dict
    levels, shape = scheduler.alphas_cumprod, (task.channels, task.image_size, task.image_size)
    if section.prediction == "flow":
        levels = flow_levels(noise.train_timesteps)
    return Denoiser(unet, shape, levels, build_sampler(levels, section.sampler, section.prediction), classes)


def load_pretrained(section, task) -> Denoiser:
    """A UNet2DModel in diffusers' format, from a local directory or the hub, with its stored noise
    schedule.

    Only safetensors weights are read, and none with `section.weights`, which replaces them. Of a network that also
    outputs a variance (Nichol and Dhariwal 2021, Sec. 3.1), the epsilon half is kept. Raises RequestError in one line
    if nothing is found, for a model of another kind or for other images than the task's, and for anything wrong with
    its files.
    """
    found = read_directory(section.path)
    where, schedule_at = (f"model.path: {file}" for file in (found.folder / "config.json", found.scheduler_file))
    channels, learned_variance = _check_fits_task(found.network, section, task, where)
    levels = noise_levels(found.scheduler, schedule_at)
    sampler = sampler_of(section.sampler, found.scheduler, schedule_at)
    classes = _classes(found.network, section, task, where)
    unet = _build(found.network | {"out_channels": channels, "sample_size": task.image_size}, where)
    unet.current_state_dict = current_state_dict
    denoiser = Denoiser(unet, (channels, task.image_size, task.image_size), levels, sampler, classes)
    own = found.scheduler["_class_name"]
    if section.sampler.name == "scheduler":
        clips = " with clip_sample=true" * sampler.clip_sample
        denoiser.notes = [f"sampled as its scheduler file says, {own}{clips}, in {len(sampler)} steps"]
    else:
        clips = " with clip_sample=true" * bool(found.scheduler.get("clip_sample"))
        denoiser.notes = [f"sampled with model.sampler, {section.sampler.name}; its own scheduler is {own}{clips}"]
    if classes is not None and classes.null_class is None:
        denoiser.notes.append("it has no null class, so walks are not guided")
    if learned_variance:
        denoiser.notes.append("its learned variance is dropped, as the sampler has its own")
    if found.folder == found.root / "unet_ema":
        denoiser.notes.append("there is no folder unet, so unet_ema was read")
    elif (found.root / "unet_ema").is_dir():
        denoiser.notes.append(f"there is also an average; for that type model.path={found.root / 'unet_ema'}")
    if section.weights is None:
        tensors, file = found.weights()
        matched = match(tensors, unet, f"model.path: {file}")
        unet.load_state_dict(matched.tensors)
        denoiser.notes += matched.notes
        denoiser.weights_from = f"{file}, revision {found.root.name} of {found.hub}" if found.hub else str(file)
        denoiser.has_weights = True
    _check_forward(denoiser, task, where)
    return denoiser


def current_state_dict(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors in the form of the network's present state dict `own`.

    Attention layers had other names before diffusers 0.15; of an output with a variance the epsilon half is kept.
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


def _check_fits_task(config: dict, section, task, where: str) -> tuple[int, bool]:
    """Channels of the images, and whether the network also outputs a variance.

    Raises RequestError for a network that does not fit the task's images.
    """
    if config.get("class_embed_type") is not None:
        raise RequestError(
            f"{where}: the network is conditioned on more than a class"
            f" (class_embed_type={config['class_embed_type']}); {ONLY}"
        )
    channels, out_channels = config.get("in_channels", 3), config.get("out_channels", 3)
    if out_channels not in (channels, 2 * channels):
        raise RequestError(
            f"{where}: the network makes {out_channels} channels of {channels}, allowed: as many (epsilon), "
            "or twice as many (epsilon and variance); give another model.path"
        )
    size = config.get("sample_size")
    if size is None:
        raise RequestError(
            f"{where}: it does not say the image size that the network was trained on (sample_size); if it was "
            f'{task.image_size} x {task.image_size}, write "sample_size": {task.image_size} there'
        )
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if (channels, height, width) != (task.channels, task.image_size, task.image_size):
        resized = channels == task.channels and height == width
        fitting = f"type task.image_size={height}" if resized else "choose another task"
        raise RequestError(
            f"{where}: model={section.name} makes {channels} x {height} x {width} images; "
            f"task={task.name} has {task.channels} x {task.image_size} x {task.image_size}; "
            f"{fitting}, or give another model.path"
        )
    return channels, out_channels != channels


def _classes(config: dict, section, task, where: str) -> Classes | None:
    """The network's classes: the task's, and possibly a null class as the last one.

    Raises RequestError if they are not the task's, or for guidance without a null class.
    """
    count = config.get("num_class_embeds")
    if count is None:
        return None
    if task.classes is None or count not in (task.classes, task.classes + 1):
        raise RequestError(
            f"{where}: the network is conditioned on {count} classes (num_class_embeds), and task={task.name} has "
            f"{task.classes or 'no labels'}; choose a task of its {count - 1} or {count} classes, or another model.path"
        )
    null_class = task.classes if count == task.classes + 1 else None
    if null_class is None and section.guidance.scale != 1:
        raise RequestError(
            f"model.guidance.scale: got {section.guidance.scale}, but none of the {count} classes of"
            f" {where.removeprefix('model.path: ')} is a null class, allowed: 1; type model.guidance.scale=1"
        )
    return Classes(task.classes, null_class, Guidance(section.guidance.scale, section.guidance.batched))


def _build(config: dict, where: str) -> nn.Module:
    """The UNet2DModel of `config`, with random weights. Raises RequestError if diffusers cannot build it."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    known = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        return UNet2DModel.from_config(known)
    except (ArithmeticError, LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"{where}: diffusers cannot build this {NETWORK} ({first_line(error)}); correct it"
        ) from error


@torch.no_grad()
def _check_forward(denoiser: Denoiser, task, where: str) -> None:
    """Run one image through the network at the walk's first and last timestep, so that mismatches fail here."""
    shape, training = (1, task.channels, task.image_size, task.image_size), denoiser.unet.training
    denoiser.unet.eval()
    network = denoiser.unguided()(denoiser.condition(1, 0))
    another = "choose another task.image_size or another model.path"
    for t in (denoiser.sampler.timesteps[0], denoiser.sampler.timesteps[-1]):
        try:
            out = network(seeded_normal(shape, 0), t, 0)
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            images = f"{task.channels} x {task.image_size} x {task.image_size} images"
            raise RequestError(
                f"{where}: the network does not take {images} and a timestep ({first_line(error)}); {another}"
            ) from error
        if out.shape != shape:
            raise RequestError(f"{where}: the network makes {list(out.shape)} of {list(shape)}; {another}")
        if not out.isfinite().all():
            raise RequestError(
                f"{where}: the network outputs NaN or infinity for standard normal noise at timestep "
                f"{t}; give another checkpoint"
            )
    denoiser.unet.train(training)


def shortcut_splits(unet: nn.Module) -> dict[str, int]:
    """Channels of the up path's own half in the inputs of shortcut convolutions that read a concatenation with a skip
    connection, by module name.

    In a UNet's up block, resnet j reads cat([hidden, skip]), where hidden has the previous layer's output channels
    (Q-Diffusion, Sec. 4.2: the two halves have different ranges).
    """
    splits: dict[str, int] = {}
    if not hasattr(unet, "up_blocks"):  # a transformer
        return splits
    deepest = unet.mid_block if unet.mid_block is not None else unet.down_blocks[-1]
    hidden = deepest.resnets[-1].out_channels
    for i, block in enumerate(unet.up_blocks):
        for j, resnet in enumerate(block.resnets):
            if resnet.conv_shortcut is not None and resnet.in_channels > hidden:
                splits[f"up_blocks.{i}.resnets.{j}.conv_shortcut"] = hidden
            hidden = resnet.out_channels
    return splits


def reconstruction_units(unet: nn.Module) -> list[str]:
    """Names of the modules that block reconstruction treats as one unit, in the order of the forward pass.

    As in Q-Diffusion, residual blocks and transformer or attention blocks; the caller adds every other single layer.
    """
    units: list[str] = []
    for name, module in unet.named_modules():
        if type(module).__name__ in UNITS and not any(name.startswith(f"{unit}.") for unit in units):
            units.append(name)
    return units
