"""The directory of a diffusers pipeline: what `model_index.json` says of it.

    model_index.json        the pipeline's class, and of each part its library and class
    unet/, transformer/     the denoising network          vae/, vqvae/    what makes images of latents
    text_encoder*/, tokenizer*/                            scheduler/      how it is sampled from

Only classes of diffusers and transformers are ever built, and only weights in safetensors are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.errors import RequestError, did_you_mean
from quantlab.models.diffusers_directory import KEY, RESTORE, SCHEDULER, NetworkFolder, fetch, locate, read_json

INDEX = "model_index.json"
FILES = ("*.json", "*/*.json", "*/*.txt", "*/*.model")  # of a hub's repository, without weights
OUR_LIBRARIES = ("diffusers", "transformers")
# What an index lists and no walk needs
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass
class PipelineDirectory:
    """root: the directory, or the snapshot of the hub id `hub`; kind: the pipeline's class; parts: by name (library,
    class).
    """

    root: Path
    hub: str | None
    kind: str
    parts: dict[str, tuple[str, str]]
    index: dict[str, Any]

    def part(self, name: str, classes: tuple[str, ...]) -> NetworkFolder:
        """The network called `name`. Raises RequestError in one line unless it is there and of one of these classes."""
        folder = self.root / name
        if name not in self.parts or not (folder / "config.json").is_file():
            held = ", ".join(f"{part}: {kind}" for part, (_, kind) in self.parts.items()) or "nothing"
            raise RequestError(
                f"{KEY}: {self.root} is a {self.kind} without {name}/config.json ({INDEX} lists {held}); {RESTORE}"
            )
        config = read_json(folder / "config.json")
        built = self.parts[name][1]
        if built not in classes or config.get("_class_name", built) not in classes:
            got = built if built not in classes else config["_class_name"]
            raise RequestError(
                f"{KEY}: {name} of {self.root} is {got}, allowed in {self.kind}: {', '.join(classes)}; give another"
                " model.path"
            )
        if config.get("quantization_config"):
            raise RequestError(
                f"{KEY}: {folder / 'config.json'} has a quantization_config, allowed: weights in full precision, which"
                " are quantized here; give the model as it was before"
            )
        return NetworkFolder(self.root, folder, config, self.hub)

    def scheduler(self) -> tuple[dict[str, Any], Path]:
        """The scheduler's config, with the `_class_name` that diffusers builds of it, and its file."""
        file = self.root / "scheduler" / SCHEDULER
        if "scheduler" not in self.parts or not file.is_file():
            raise RequestError(f"{KEY}: {self.root} has no scheduler/{SCHEDULER}; {RESTORE}")
        return read_json(file) | {"_class_name": self.parts["scheduler"][1]}, file


def read_pipeline(path: str, kinds: tuple[str, ...]) -> PipelineDirectory:
    """The pipeline at `path`, a directory or a hub id, without its weights; kinds: the classes that are supported.

    Raises RequestError in one line for anything wrong with it, for a pipeline of another kind, and for one with code of
    its own.
    """
    root, hub = locate(path, FILES)
    file = root / INDEX
    if not file.is_file():
        unet = (root / "config.json").is_file() or (root / "unet" / "config.json").is_file()
        also = f"; for a UNet2DModel and its scheduler type model=ddpm_cifar10 {KEY}={path}" if unet else ""
        raise RequestError(f"{KEY}: {root} has no {INDEX}, which says what pipeline it is{also}")
    index = read_json(file)
    kind = index.get("_class_name")
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    parts = {name: (library, own) for name, (library, own) in pairs.items() if own and not name.startswith("_")}
    foreign = {name: library for name, (library, _) in parts.items() if library not in OUR_LIBRARIES}
    code = next((name for name in foreign if name not in UNUSED), None)
    if not isinstance(kind, str) or code is not None:
        where = "_class_name" if code is None else f"{code} ({foreign[code]})"
        raise RequestError(
            f"{KEY}: {file}: {where} names code of the directory's own, which is never run, allowed: classes of"
            " diffusers and transformers; give another model.path"
        )
    if kind not in kinds:
        raise RequestError(
            f"{KEY}: {file} names {kind}, allowed: {', '.join(kinds)}{did_you_mean(kind, kinds)}; give another"
            " model.path"
        )
    return PipelineDirectory(root, hub, kind, parts, index)


def fetch_folders(found: PipelineDirectory, names: list[str]) -> None:
    """Download the weights of these parts, in safetensors, where the pipeline is one of the hub's."""
    if found.hub is not None:
        fetch(found.hub, tuple(f"{name}/*.safetensors" for name in names), revision=found.root.name)
