"""model=pipeline: any diffusers pipeline of a kind below, from a directory or the hub. Only its denoiser is quantized;
text encoders and decoder are loaded where they are needed, and let go of.

`model_index.json` says which kind it is. Guidance, steps and sizes that the config leaves open are the pipeline's own.
"""

import functools
from typing import Any

from quantlab.diffusion.conditioning import Classes
from quantlab.diffusion.denoiser import Denoiser
from quantlab.diffusion.rollout import Conditional
from quantlab.errors import RequestError
from quantlab.models.diffusers_directory import KEY, NetworkFolder
from quantlab.models.diffusers_scheduler import noise_levels
from quantlab.models.pipelines import networks
from quantlab.models.pipelines.decoder import AUTOENCODERS, LatentDecoder
from quantlab.models.pipelines.directory import read_pipeline
from quantlab.models.pipelines.dit import DiT
from quantlab.models.pipelines.family import Family
from quantlab.models.pipelines.flux import Flux
from quantlab.models.pipelines.pixart import PixArt
from quantlab.models.pipelines.prompts import Prompts
from quantlab.models.pipelines.sd3 import SD3
from quantlab.models.pipelines.stable_diffusion import SDXL, StableDiffusion
from quantlab.models.pipelines.unconditional import Latent, Unconditional
from quantlab.models.scheduler_sampler import sampler_of

FAMILIES: dict[str, type[Family]] = {
    "DDPMPipeline": Unconditional,
    "DDIMPipeline": Unconditional,
    "LDMPipeline": Latent,
    "DiTPipeline": DiT,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": SDXL,
    "StableDiffusion3Pipeline": SD3,
    "FluxPipeline": Flux,
}


class PipelineDenoiser(Denoiser):
    """A pipeline's denoiser, whose weights are never trained here, and lie elsewhere while nobody asks for them.

    folder: where they are read from; None where others have taken their place. offload: where they lie meanwhile, as
    the config says.
    """

    folder: NetworkFolder | None = None
    offload = "disk"
    is_released = False

    @functools.cached_property
    def _fingerprint(self) -> str:
        return super().fingerprint()

    def release(self) -> None:
        stays = self.offload == "none" or (self.offload == "disk" and self.folder is None)
        if self.has_weights and not self.is_released and not stays:
            self._fingerprint  # noqa: B018 -- while they are here
            networks.move(self.unet, "meta" if self.offload == "disk" else "cpu")
            self.is_released = True

    def unguided(self) -> Conditional:
        if self.is_released:
            if self.offload == "disk" and self.folder is not None:
                networks.load(self.unet, self.folder)
            networks.move(self.unet, self.alphas_cumprod.device)
            self.is_released = False
        return super().unguided()

    def fingerprint(self) -> str:
        return self._fingerprint


def load_pipeline(section: Any, task: Any) -> PipelineDenoiser:
    """The denoiser of the pipeline at `section.path`, with its conditioning, sampler and decoder.

    Raises RequestError in one line for anything wrong with the directory or its files, and for what does not fit it:
    the task's images, sizes, guidance of a network without conditions.
    """
    if section.path is None:
        raise RequestError(f"{KEY}: got null, allowed: a directory with model_index.json, or a hub id; type {KEY}=DIR")
    found = read_pipeline(section.path, tuple(FAMILIES))
    family = FAMILIES[found.kind](found, section)
    decoder = None if family.autoencoder is None else LatentDecoder(found.part(family.autoencoder, AUTOENCODERS))
    factor = 1 if decoder is None else decoder.factor
    image_size = _image_size(family, section.image_size, factor, task)
    _check_outputs(family)
    scheduler, file = found.scheduler()
    scheduler, at, side = family.scheduler(scheduler), f"{KEY}: {file}", image_size // factor
    steps = section.sampler.steps or family.default("num_inference_steps", 50)
    given = family.timesteps(scheduler, side, steps) if section.sampler.name == "scheduler" else {}
    sampler = sampler_of(section.sampler.model_copy(update={"steps": steps}), scheduler, at, **given)
    family.conditioning = family.condition(image_size)
    _refuse_idle_keys(family)
    network = networks.build(family.folder, str(family.config["_class_name"]))
    levels = noise_levels(scheduler, at)
    shape = (family.channels, side, side)
    denoiser = PipelineDenoiser(network, shape, levels, sampler, family.conditioning, family.call, decoder)
    denoiser.time_scale, denoiser.is_half = family.time_scale, section.compute == "float16"
    denoiser.offload = section.offload
    if section.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if section.weights is None:
        denoiser.folder = family.folder
        denoiser.weights_from, notes = networks.load(network, family.folder)
        denoiser.notes, denoiser.has_weights = [_described(denoiser, found.kind, image_size), *notes], True
    return denoiser


def _described(denoiser: Denoiser, kind: str, image_size: int) -> str:
    guidance = "" if denoiser.conditioning is None else f", guidance {denoiser.conditioning.guidance.scale:g}"
    name = type(denoiser.sampler).__module__.rpartition(".")[2]
    return f"{kind}, {image_size} pixels, {len(denoiser.sampler)} steps of {name}{guidance}"


def _image_size(family: Family, wanted: int | None, factor: int, task: Any) -> int:
    """Pixels on a side of the images. Raises RequestError where latents or the task's images have others."""
    size = family.own_side * factor if wanted is None else wanted
    multiple = factor * family.patch
    if size % multiple:
        near = max(round(size / multiple), 1) * multiple
        raise RequestError(
            f"model.image_size: got {size}, allowed: multiples of {multiple}, since a latent of {family.found.kind} is"
            f" {factor} pixels wide; type model.image_size={near}"
        )
    fixed = family.fixed_side
    if fixed is not None and size != fixed * factor:
        raise RequestError(
            f"model.image_size: got {size}, allowed: {fixed * factor}, for which the positions of"
            f" {family.networks[0]} are made; type model.image_size={fixed * factor}"
        )
    if task.image_size not in (None, size):
        raise RequestError(
            f"task.image_size: got {task.image_size}, but model={family.section.name} makes images of {size} pixels;"
            f" type task.image_size={size}"
        )
    return size


def _refuse_idle_keys(family: Family) -> None:
    """Raises RequestError for conditions that the pipeline has nothing for."""
    section, kind = family.section, family.found.kind
    if section.prompts.file is not None and not isinstance(family.conditioning, Prompts):
        raise RequestError(
            f"model.prompts.file: got {section.prompts.file}, but {kind} draws without text, allowed: null; type"
            " model.prompts.file=null"
        )
    if section.null_class is not None and not isinstance(family.conditioning, Classes):
        raise RequestError(
            f"model.null_class: got {section.null_class}, but {kind} has no classes here, allowed: null; type"
            " model.null_class=null"
        )
    if section.guidance.true_scale is not None and not isinstance(family, Flux):
        raise RequestError(
            f"model.guidance.true_scale: got {section.guidance.true_scale}, but guidance of {kind} is no input of its"
            f" network, allowed: null; type model.guidance.true_scale=null model.guidance.scale="
            f"{section.guidance.true_scale:g}"
        )
    channels = section.guidance.channels
    if channels is not None and channels > family.channels:
        raise RequestError(
            f"model.guidance.channels: got {channels}, allowed: 1 to {family.channels}, those of a state, or null for"
            " all; type model.guidance.channels=null"
        )


def _check_outputs(family: Family) -> None:
    if family.outputs not in (family.channels, 2 * family.channels):
        raise RequestError(
            f"{KEY}: {family.folder.folder / 'config.json'}: the network makes {family.outputs} channels of"
            f" {family.channels}, allowed: as many, or twice as many (with a variance), as of text to image without a"
            " mask; give another model.path"
        )
