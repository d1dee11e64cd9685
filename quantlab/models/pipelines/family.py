"""A family of pipelines: how its network is called, what its prompts or classes become, and how its states are shaped.

A family is a file of this folder with a class of this base; `FAMILIES` in `__init__` names it. It says what differs
from the next: everything else is done once, in `__init__`.
"""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quantlab.diffusion.conditioning import Condition, Conditioning, Guidance
from quantlab.errors import RequestError
from quantlab.models.diffusers_directory import KEY, RESTORE, read_json
from quantlab.models.pipelines.directory import PipelineDirectory, fetch_folders
from quantlab.models.pipelines.prompts import Encode, Prompts, read_prompts
from quantlab.models.timm_classifier import first_line
from quantlab.optional import require

ENCODED_AT_ONCE = 16  # prompts
NARROW = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Without these a pipeline is its text encoders alone
NO_TEXT = ("unet", "transformer", "vae", "safety_checker", "feature_extractor", "image_encoder")


class Family:
    """part, networks: of the pipeline the denoiser's name, and the classes that it may be; autoencoder: the name of
    what decodes, None for pixels; patch: states are divided into squares of that many on a side.
    """

    part: ClassVar[str] = "transformer"
    networks: ClassVar[tuple[str, ...]]
    autoencoder: ClassVar[str | None] = "vae"
    patch: ClassVar[int] = 1
    time_scale: ClassVar[float] = 1  # of timesteps, as the network takes them

    def __init__(self, found: PipelineDirectory, section: Any):
        self.found, self.section = found, section
        self.folder = found.part(self.part, self.networks)
        self.config = self.folder.network
        self.conditioning: Conditioning | None = None

    # states ----------------------------------------------------------------------------------------------------------
    @property
    def channels(self) -> int:
        """Of a state."""
        return int(self.config.get("in_channels", 4))

    @property
    def outputs(self) -> int:
        """Channels that the network makes; those beyond `channels` are a variance, which no sampler here uses."""
        return int(self.config.get("out_channels") or self.channels)

    @property
    def own_side(self) -> int:
        """Height and width of the states that the network was trained on. Raises RequestError where they differ."""
        size = self.config.get("sample_size")
        height, width = size if isinstance(size, list | tuple) else (size, size)
        if not isinstance(height, int) or height != width:
            raise RequestError(
                f"{KEY}: {self.folder.folder / 'config.json'}: sample_size is {size}, allowed: one number, for squares;"
                " give another model.path"
            )
        return height

    @property
    def fixed_side(self) -> int | None:
        """The only side of states that the network takes, if it takes one alone."""
        return None

    def scheduler(self, config: dict[str, Any]) -> dict[str, Any]:
        """The scheduler's config as the pipeline takes it."""
        return config

    def timesteps(self, scheduler: Mapping[str, Any], side: int, steps: int) -> dict[str, Any]:
        """What the pipeline gives `set_timesteps` besides the number of steps, for states of that side."""
        return {}

    # the call --------------------------------------------------------------------------------------------------------
    def call(self, network: nn.Module, condition: Condition) -> Callable[[Tensor, float], Tensor]:
        """`network` for walks of a condition of N rows: (x [N, C, h, w], t) -> its prediction, of x's shape."""
        given = {} if self.conditioning is None else self.conditioning.arguments(condition)
        narrow = NARROW[self.section.compute]

        def called(x: Tensor, t: float) -> Tensor:
            with torch.autocast(x.device.type, narrow, enabled=narrow is not None):
                output = self.output(network, x, self.time(x, t), given)
            return output[:, : self.channels].float()

        return called

    def time(self, x: Tensor, t: float) -> Tensor:
        """The network's time for N states [N]."""
        return torch.full((len(x),), t, device=x.device)

    def output(self, network: nn.Module, x: Tensor, t: Tensor, given: Mapping[str, Any]) -> Tensor:
        """One evaluation."""
        output: Tensor = network(x, timestep=t, return_dict=False, **given)[0]
        return output

    # conditioning ----------------------------------------------------------------------------------------------------
    def condition(self, image_size: int) -> Conditioning | None:
        """Classes or prompts; None for an unconditional network."""
        return self.prompts(image_size)

    def guidance(self) -> Guidance:
        section = self.section.guidance
        scale = self.default("guidance_scale", 1.0) if section.scale is None else section.scale
        return Guidance(scale, section.batched, section.channels)

    def default(self, name: str, otherwise: Any) -> Any:
        """What the pipeline itself takes for an argument of its call."""
        import diffusers

        argument = inspect.signature(getattr(diffusers, self.found.kind).__call__).parameters.get(name)
        return otherwise if argument is None or argument.default is None else argument.default

    # text ------------------------------------------------------------------------------------------------------------
    def prompts(self, image_size: int) -> Prompts:
        section, guidance = self.section.prompts, self.guidance()
        self.require_encoders()
        chosen = self.encoding_options(image_size)
        return Prompts(
            read_prompts(section.file, section.count, section.seed),
            section.negative,
            guidance,
            self.encoder,
            [self.found.kind, chosen, _encoder_files(self.found)],
            self.arguments,
        )

    def require_encoders(self) -> None:
        """Raises RequestError where the text encoders cannot be loaded: before any work, since they are loaded late."""
        require("transformers", "pipelines", f"{KEY}: a text encoder of {self.found.kind}")
        for name in (one for one in self.found.parts if one.startswith("text_encoder")):
            folder = self.found.root / name
            if not (folder / "config.json").is_file():
                raise RequestError(f"{KEY}: {self.found.root} has no {name}/config.json; {RESTORE}")
            if "auto_map" in read_json(folder / "config.json"):
                raise RequestError(
                    f"{KEY}: {folder / 'config.json'}: auto_map names code of the directory's own, which is never run,"
                    " allowed: classes of transformers; give another model.path"
                )
            if self.found.hub is None and not any(folder.glob("*.safetensors")):
                raise RequestError(
                    f"{KEY}: {folder} has no weights in safetensors, and pickled ones are never loaded; restore them"
                    " from where the model came from"
                )

    def encoding_options(self, image_size: int) -> dict[str, Any]:
        """Keyword arguments of `encode`, as plain data."""
        return {}

    def encoder(self, device: torch.device | str) -> Encode:
        """The pipeline's text encoders, without its other parts, on `device`."""
        pipeline = self._text_pipeline().to(device)

        def encode(prompts: list[str], negative: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            parts = []
            for first in range(0, len(prompts), ENCODED_AT_ONCE):
                rows, null = self.encode(pipeline, prompts[first : first + ENCODED_AT_ONCE], negative, device)
                parts.append({name: values.cpu() for name, values in rows.items()})
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, {
                name: values[:1] for name, values in null.items()
            }

        return encode

    def encode(
        self, pipeline: Any, prompts: list[str], negative: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Rows of the prompts by name, and of the negative prompt."""
        raise NotImplementedError  # of families with text

    def arguments(self, rows: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """What the network is called with, made of rows of embeddings."""
        return rows

    def _text_pipeline(self) -> Any:
        import diffusers

        _without_bars()
        fetch_folders(self.found, [name for name in self.found.parts if name.startswith("text_encoder")])
        present = {name: None for name in NO_TEXT if name in self.found.index}
        variant = {"variant": "fp16"} if _only_in_half(self.found) else {}
        try:
            return getattr(diffusers, self.found.kind).from_pretrained(
                self.found.root, local_files_only=True, use_safetensors=True, **present, **variant
            )
        except ImportError as error:
            raise RequestError(
                f"{KEY}: the text encoders of {self.found.kind} need more than is installed"
                f" ({first_line(error)}); type pip install -e '.[pipelines]' in quantlab's clone"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise RequestError(
                f"{KEY}: the text encoders of {self.found.root} cannot be loaded ({first_line(error)}); restore them"
                " from where the model came from, with weights in safetensors"
            ) from error


def dynamic_shift(scheduler: Mapping[str, Any], tokens: int, largest: float) -> float:
    """mu of a scheduler that shifts a flow's sigmas by the number of image tokens: a line through two points of its
    config.
    """
    few, many = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", largest)
    slope = (high - low) / (many - few)
    return float(tokens * slope + (low - slope * few))


def _without_bars() -> None:
    """No bar for each part that is loaded."""
    from diffusers.utils import logging as of_diffusers

    of_diffusers.disable_progress_bar()
    with contextlib.suppress(ImportError):
        from transformers.utils import logging as of_transformers

        of_transformers.disable_progress_bar()


def _encoder_files(found: PipelineDirectory) -> list[Any]:
    """What tells the text encoders of one pipeline from those of another: names, sizes and times of their files."""
    folders = [name for name in found.parts if name.startswith(("text_encoder", "tokenizer"))]
    files = [file for name in folders for file in sorted((found.root / name).glob("*")) if file.is_file()]
    return [[file.relative_to(found.root).as_posix(), *_stamp(file)] for file in files]


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _only_in_half(found: PipelineDirectory) -> bool:
    folders = [found.root / name for name in found.parts if name.startswith("text_encoder")]
    return any(
        not any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json"))
        and any(folder.glob("model.fp16*.safetensors"))
        for folder in folders
    )
