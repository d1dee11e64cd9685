"""A diffusion model in diffusers' format: a network's config and weights, and the config of its noise schedule.

    model_index.json                            the pipeline's class and its parts
    unet/config.json                            the network's class and sizes
    unet/diffusion_pytorch_model.safetensors    its weights: one file, or an index and its shards
    scheduler/scheduler_config.json             the noise schedule

Older models have everything in one folder. A hub id is read from its snapshot in the hub's cache, in the same way. We
read the files ourselves: diffusers initializes missing tensors with only a warning, converts any scheduler to any
other, and reacts to any problem with a directory by searching the hub.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.errors import RequestError, did_you_mean
from quantlab.models import weights
from quantlab.models.diffusers_scheduler import require_ddpm_forward
from quantlab.models.timm_classifier import first_line
from quantlab.run import parsing
from quantlab.run.directory import RunDirectory

KEY = "model.path"
NETWORK = "UNet2DModel"
ONLY = f"only unconditional models of pixels work so far, a {NETWORK} and its scheduler"
WEIGHTS = "diffusion_pytorch_model"
INDEX = f"{WEIGHTS}{weights.INDEX}"
SCHEDULER = "scheduler_config.json"
CONFIGS = (
    "model_index.json",
    "config.json",
    "unet/config.json",
    "unet_ema/config.json",
    "transformer/config.json",
    SCHEDULER,
    f"scheduler/{SCHEDULER}",
    f"*{weights.INDEX}",
)
RESTORE = "restore it from where the model came from"


@dataclass
class NetworkFolder:
    """A network in `folder`, in or below `root`: its config, with `_class_name`.

    hub: the hub id that `root` is a snapshot of, or None.
    """

    root: Path
    folder: Path
    network: dict[str, Any]
    hub: str | None

    def weights(self) -> tuple[dict[str, Tensor], Path]:
        """The tensors, with the file's names and types, and the file.

        Raises RequestError if there is none or no unique one, and as `weights.read`.
        """
        if self.hub is not None:
            self._fetch_weights()
        file = find_weights(self.folder)
        return weights.read(file, KEY)[0], file

    def _fetch_weights(self) -> None:
        # Only what is needed: repositories often hold the same weights in several precisions and formats
        inside = "" if self.folder == self.root else f"{self.folder.name}/"
        for name in (f"{WEIGHTS}.safetensors", f"{WEIGHTS}-*.safetensors", f"{WEIGHTS}.*.safetensors"):
            fetch(self.hub, (inside + name,), revision=self.root.name)
            if any(self.folder.glob("*.safetensors")):
                return
        raise RequestError(
            f"{KEY}: {self.hub} has no safetensors weights on the hub or in its local cache; type "
            f"hf download {self.hub} --local-dir DIR, then model.path=DIR"
        )


@dataclass
class DiffusersModel(NetworkFolder):
    """A network and its scheduler's config, with `_class_name`."""

    scheduler: dict[str, Any]
    scheduler_file: Path


def read_directory(path: str) -> DiffusersModel:
    """The unconditional model of pixels at `path`, a directory or a hub id, without its weights.

    Raises RequestError in one line for anything wrong with it, or if it is a model of another kind.
    """
    root, hub = locate(path)
    scheduler = _scheduler_of_pipeline(root)
    folder = _network_folder(root)
    file = folder / "config.json"
    network = read_json(file)
    name = network.get("_class_name") or next(iter(network.get("architectures") or ()), "a class that it does not name")
    if name != NETWORK:
        raise RequestError(f"{KEY}: the network of {file} is {name}; {ONLY}")
    if network.get("quantization_config"):
        raise RequestError(
            f"{KEY}: {file} has a quantization_config, allowed: weights in full precision, which are "
            "quantized here; give the model as it was before"
        )
    scheduler_file = _scheduler_file(root, folder)
    return DiffusersModel(root, folder, network, hub, scheduler | read_json(scheduler_file), scheduler_file)


def locate(path: str, files: tuple[str, ...] = CONFIGS) -> tuple[Path, str | None]:
    """The directory `path`, and None; or the snapshot of the hub id `path`, with these files, downloaded if necessary,
    and that id.

    Raises RequestError if there is neither.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        _refuse_other_directories(local)
        return local, None
    if local.exists() and local.suffix in weights.PICKLED:
        raise RequestError(
            f"{KEY}: {local} is pickled, and never loaded here, allowed: a directory in diffusers' format; of one of"
            f" latent-diffusion type python scripts/convert_latent_diffusion.py {local} config.yaml DIR, then {KEY}=DIR"
        )
    if local.exists():
        raise RequestError(
            f"{KEY}: {local} is a file, allowed: the directory that holds a network's config.json and "
            f"weights, or the one above it; type {KEY}={local.parent}"
        )
    # If the first half of owner/name is a directory here, a path was meant
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) and not local.parent.is_dir():
        return fetch(path, files), path
    beside = [one.name for one in local.parent.iterdir() if one.is_dir()] if local.parent.is_dir() else []
    raise RequestError(
        f"{KEY}: no such directory: {local.absolute()}, allowed: a directory in diffusers' format, or a "
        f"hub id (owner/name){did_you_mean(local.name, beside)}"
    )


def _refuse_other_directories(local: Path) -> None:
    if local.name.startswith("models--") and (local / "snapshots").is_dir():
        hub = local.name.removeprefix("models--").replace("--", "/")
        raise RequestError(
            f"{KEY}: {local} is a folder of the hub's cache, allowed: a directory in diffusers' "
            f"format, or a hub id; type {KEY}={hub}"
        )
    if RunDirectory(local).is_ours():
        raise RequestError(
            f"{KEY}: {local} is a run of quantlab, allowed: a directory in diffusers' format; for the "
            f"weights that method=pretrain left type model.weights={local} with that run's model"
        )


def fetch(hub: str, patterns: tuple[str, ...], revision: str | None = None) -> Path:
    """The snapshot folder of `hub`, with the files that match `patterns`. Raises RequestError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # otherwise the hub announces each retry
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{KEY}: there is no directory {Path(hub).absolute()}, nor {hub} in the local hub cache, "
            f"and it could not be fetched ({first_line(error)}); on a machine with a connection type "
            f"'hf download {hub} --local-dir DIR', then here {KEY}=DIR"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in `file`. Raises RequestError if it cannot be read or holds something else."""
    try:
        content = parsing.read_json(file)
    except (OSError, ValueError) as error:
        raise RequestError(f"{KEY}: {file} is not JSON ({first_line(error)}); {RESTORE}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{KEY}: {file} holds a {type(content).__name__}, not a mapping; {RESTORE}")
    return content


def find_weights(folder: Path) -> Path:
    """The network's file, or the index of its shards; otherwise a single other file, such as an fp16 variant.

    Raises RequestError if there is none or no unique one.
    """
    for name in (f"{WEIGHTS}.safetensors", INDEX):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if any("-of-" in one.name for one in found):
        raise RequestError(
            f"{KEY}: {folder} has shards such as {found[0].name}, but not {INDEX}, which maps tensors "
            f"to files; {RESTORE}"
        )
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(
            f"{KEY}: {folder} has {', '.join(one.name for one in found)}, allowed: "
            f"{WEIGHTS}.safetensors, or a single other file; rename the one you mean"
        )
    pickled = sorted(one for one in folder.iterdir() if one.suffix in weights.PICKLED)
    if pickled:
        raise RequestError(
            f"{KEY}: {folder} only has weights in {pickled[0].name}, which is pickled and never loaded "
            f"here; type python scripts/convert_weights.py {pickled[0]} {folder / WEIGHTS}.safetensors"
        )
    raise RequestError(f"{KEY}: {folder} has no weights, allowed: {WEIGHTS}.safetensors next to config.json")


def _scheduler_of_pipeline(root: Path) -> dict[str, str]:
    """The scheduler's class according to model_index.json, for a scheduler config without one.

    Raises RequestError for pipelines of other kinds.
    """
    index = root / "model_index.json"
    if not index.is_file():
        return {}
    pipeline = read_json(index)
    pairs = {name: value for name, value in pipeline.items() if isinstance(value, list) and len(value) == 2}
    parts = {name: kind for name, (_, kind) in pairs.items() if kind}
    if not parts.keys() <= {"unet", "scheduler"} or parts.get("unet", NETWORK) != NETWORK:
        held = ", ".join(f"{name}: {kind}" for name, kind in parts.items())
        raise RequestError(f"{KEY}: {root} holds {pipeline.get('_class_name', 'a pipeline')} ({held}); {ONLY}")
    if "scheduler" not in parts:
        return {}
    # diffusers builds a scheduler of this class, whatever the scheduler's config says
    require_ddpm_forward(parts["scheduler"], f"{KEY}: {index}")
    return {"_class_name": parts["scheduler"]}


def _network_folder(root: Path) -> Path:
    """The folder of the network: unet, `root` itself, or unet_ema if diffusers' training saved only that."""
    for folder in [root / "unet"] if (root / "unet").is_dir() else [root, root / "unet_ema"]:
        if (folder / "config.json").is_file():
            return folder
    if (root / "unet").is_dir():
        raise RequestError(f"{KEY}: {root / 'unet'} has no config.json, which says how the network is built; {RESTORE}")
    if (root / "transformer" / "config.json").is_file():
        name = read_json(root / "transformer" / "config.json").get("_class_name", "a transformer")
        raise RequestError(f"{KEY}: the network of {root} is {name}; {ONLY}")
    held = sorted(one.name for one in root.iterdir())
    raise RequestError(
        f"{KEY}: {root} holds no model in diffusers' format: neither unet/config.json nor config.json; "
        f"it holds {', '.join(held[:6]) or 'nothing'}{', ...' if len(held) > 6 else ''}"
    )


def _scheduler_file(root: Path, folder: Path) -> Path:
    candidates = [root / "scheduler" / SCHEDULER, root / SCHEDULER]
    if folder == root and root.resolve().name in ("unet", "unet_ema"):  # the path is the network's folder
        candidates.append(root.resolve().parent / "scheduler" / SCHEDULER)
    for file in candidates:
        if file.is_file():
            return file
    ddpm = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
    }
    raise RequestError(
        f"{KEY}: {root} has no scheduler/{SCHEDULER}, which describes the noise that the model was "
        f"trained with; restore it (DDPM's is {json.dumps(ddpm)})"
    )
