"""A diffusion model as diffusers saves it: a network's config and weights, and the config of the noise it was trained with.

    model_index.json                            the pipeline's class and its parts
    unet/config.json                            the network's class and sizes
    unet/diffusion_pytorch_model.safetensors    its weights: one file, or an index and its shards
    scheduler/scheduler_config.json             the noise

Older models have all of it in one folder. A hub id is read from its snapshot in the hub's cache, so both are one case. We read the
files ourselves, because diffusers draws missing tensors anew with a warning, takes any scheduler for any other, and answers whatever is
wrong with a directory by looking for it on the hub.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.errors import RequestError, did_you_mean
from quantlab.models.diffusers_scheduler import require_ddpm_forward
from quantlab.models.timm_classifier import first_line

NETWORK = "UNet2DModel"
ONLY = f"only unconditional models of pixels work so far, a {NETWORK} and its scheduler"
WEIGHTS = "diffusion_pytorch_model"
CONFIGS = ["model_index.json", "config.json", "unet/config.json", "scheduler_config.json", "scheduler/scheduler_config.json",
           "unet_ema/config.json", "transformer/config.json", "*.safetensors.index*.json"]
POINTER = b"version https://git-lfs"        # what a clone without Git LFS has instead of a large file
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}     # attention before diffusers 0.15


@dataclass
class DiffusersModel:
    """What a directory holds. root: the directory; folder: the network's; network, scheduler: their configs, with `_class_name`.

    hub: the hub id that `root` is a snapshot of, or None.
    """

    root: Path
    folder: Path
    network: dict[str, Any]
    scheduler: dict[str, Any]
    scheduler_file: Path
    hub: str | None

    def weights(self) -> tuple[dict[str, Tensor], str]:
        """The network's tensors by name, float32, and where they come from in words. Raises RequestError as `read_weights`."""
        if self.hub is not None:
            _fetch_weights(self)
        file = find_weights(self.folder)
        revision = f" of {self.hub}, revision {self.root.name}" if self.hub is not None else ""
        tensors, dtypes = read_weights(file)
        kept_as = "" if dtypes == {torch.float32} else f" ({', '.join(sorted(map(_dtype, dtypes)))}, read as float32)"
        return tensors, f"{file}{revision}{kept_as}"


def read_directory(path: str) -> DiffusersModel:
    """The unconditional model of pixels at `path`, a directory or a hub id, without its weights.

    Raises RequestError in one line for whatever is wrong with it, or where it is a model of another kind.
    """
    root, hub = locate(path)
    scheduler = _scheduler_of_pipeline(root)
    folder = _network_folder(root)
    network = read_json(folder / "config.json")
    name = network.get("_class_name") or next(iter(network.get("architectures") or []), None)
    if name != NETWORK:
        raise RequestError(f"model.path: {folder / 'config.json'} is of {f'class {name}' if name else 'a class that it does not name'}; {ONLY}")
    if network.get("quantization_config"):
        raise RequestError(f"model.path: {folder / 'config.json'} has a quantization_config, allowed: weights in full precision, which are "
                           "quantized here; give the model as it was before")
    file = _scheduler_file(root, folder)
    return DiffusersModel(root, folder, network, scheduler | read_json(file), file, hub)


def locate(path: str) -> tuple[Path, str | None]:
    """The directory `path`, None; or the snapshot in the hub's cache of the hub id `path`, fetched if need be, and that id."""
    local = Path(path).expanduser()
    if local.is_dir():
        if (local / "snapshots").is_dir() and local.name.startswith("models--"):
            raise RequestError(f"model.path: {local} is a folder of the hub's cache; type model.path={local.name[8:].replace('--', '/')}, "
                               "or give one of the folders under its snapshots")
        if (local / "config.yaml").is_file() and (local / "status.json").is_file():
            raise RequestError(f"model.path: {local} is a run of quantlab, allowed: a directory in diffusers' format; for the weights of "
                               f"method=pretrain type model.weights={local}/checkpoints/model.safetensors with that run's model")
        return local, None
    if local.exists():
        raise RequestError(f"model.path: {local} is a file, allowed: the directory that holds {NETWORK}'s config.json and weights, or the "
                           f"one above it; type model.path={local.parent}")
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", path) and path[0] not in ".~" and not local.parent.is_dir()
    if not is_hub_id:
        beside = [one.name for one in local.parent.iterdir() if one.is_dir()] if local.parent.is_dir() else []
        raise RequestError(f"model.path: no such directory: {local.absolute()}, allowed: a directory in diffusers' format, or a hub id "
                           f"(owner/name){did_you_mean(local.name, beside)}")
    return _fetch(path, CONFIGS), path


def _fetch(hub: str, patterns: list[str], revision: str | None = None) -> Path:
    """The folder of `hub`'s snapshot, with those of its files that match `patterns`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()       # the hub would announce each of its retries
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise RequestError(f"model.path: there is no directory {Path(hub).absolute()}, nor {hub} in the local hub cache, and it could not "
                           f"be fetched ({first_line(error)}); on a machine with a connection type 'hf download {hub} --local-dir DIR', "
                           "then here model.path=DIR") from error


def _fetch_weights(model: DiffusersModel) -> None:
    """Only what is needed: a hub's folder often holds the same weights in several precisions and formats."""
    inside = "" if model.folder == model.root else f"{model.folder.name}/"
    for name in (f"{WEIGHTS}.safetensors", f"{WEIGHTS}-*.safetensors", f"{WEIGHTS}.*.safetensors"):
        _fetch(model.hub, [inside + name], revision=model.root.name)
        if any(model.folder.glob("*.safetensors")):
            return
    raise RequestError(f"model.path: {model.hub} has no safetensors weights on the hub or in its local cache; type 'hf download {model.hub} "
                       "--local-dir DIR' and 'python scripts/convert_weights.py DIR/BIN DIR/SAFETENSORS', then model.path=DIR")


def read_json(file: Path) -> dict[str, Any]:
    """Raises RequestError where `file` cannot be read, is not JSON, or holds no mapping."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"model.path: {file} is not JSON ({first_line(error)}); restore it from where the model came from") from error
    if not isinstance(content, dict):
        raise RequestError(f"model.path: {file} holds a {type(content).__name__}, not a mapping; restore it from where the model came from")
    return content


def _scheduler_of_pipeline(root: Path) -> dict[str, str]:
    """The scheduler's class as model_index.json has it, for a config that does not name its own. Raises RequestError for pipelines of
    other kinds."""
    index = root / "model_index.json"
    if not index.is_file():
        return {}
    pipeline = read_json(index)
    parts = {name: value[1] for name, value in pipeline.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    if not parts.keys() <= {"unet", "scheduler"} or parts.get("unet", NETWORK) != NETWORK:
        held = ", ".join(f"{name}: {kind}" for name, kind in parts.items())
        raise RequestError(f"model.path: {root} is of class {pipeline.get('_class_name')} ({held}); {ONLY}")
    if "scheduler" in parts:        # diffusers makes this class, whichever the scheduler's config names
        require_ddpm_forward(parts["scheduler"], f"model.path: {index}")
    return {"_class_name": parts["scheduler"]} if "scheduler" in parts else {}


def _network_folder(root: Path) -> Path:
    """The folder with the network's config.json: unet, the directory itself, or unet_ema where diffusers' training left only that."""
    candidates = [root / "unet"] if (root / "unet").is_dir() else [root, root / "unet_ema"]
    for folder in candidates:
        if (folder / "config.json").is_file():
            return folder
    if (root / "unet").is_dir():
        raise RequestError(f"model.path: {root / 'unet'} has no config.json, which says how the network is built; restore it from where "
                           "the model came from")
    if (root / "transformer" / "config.json").is_file():
        name = read_json(root / "transformer" / "config.json").get("_class_name", "transformer")
        raise RequestError(f"model.path: the network of {root} is of class {name}; {ONLY}")
    held = sorted(one.name for one in root.iterdir())
    raise RequestError(f"model.path: {root} holds no model in diffusers' format: neither unet/config.json nor config.json; it holds "
                       f"{', '.join(held[:6]) or 'nothing'}{', ...' if len(held) > 6 else ''}")


def _scheduler_file(root: Path, folder: Path) -> Path:
    name = "scheduler_config.json"
    candidates = [root / "scheduler" / name, root / name]
    if folder == root and root.resolve().name in ("unet", "unet_ema"):      # the path named the network's folder
        candidates.append(root.resolve().parent / "scheduler" / name)
    for file in candidates:
        if file.is_file():
            return file
    example = '{"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}'
    raise RequestError(f"model.path: {root} has no scheduler/{name}, which says with what noise the model was trained; put its own there "
                       f"(DDPM's is {example})")


def find_weights(folder: Path) -> Path:
    """The safetensors file of the network in `folder`, or the index of its shards; a single variant (fp16) where there is nothing else.

    Raises RequestError where there is none, or no way to choose.
    """
    for name in (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    files = sorted(one for one in folder.glob("*.safetensors") if "-of-" not in one.name)
    found = files + sorted(folder.glob("*.safetensors.index*.json"))
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(f"model.path: {folder} has {', '.join(one.name for one in found)}, allowed: {WEIGHTS}.safetensors, or a single "
                           "other file; rename the one you mean")
    shards = sorted(folder.glob("*-of-*.safetensors"))
    if shards:
        raise RequestError(f"model.path: {folder} has shards such as {shards[0].name}, but not {WEIGHTS}.safetensors.index.json, which says "
                           "what lies where; restore it from where the model came from")
    pickled = sorted(one for one in folder.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickled:
        raise RequestError(f"model.path: of weights {folder} has only {pickled[0].name}, which is pickled and never loaded here; type "
                           f"python scripts/convert_weights.py {pickled[0]} {folder / WEIGHTS}.safetensors")
    raise RequestError(f"model.path: {folder} has no weights, allowed: {WEIGHTS}.safetensors beside config.json")


def read_weights(file: Path) -> tuple[dict[str, Tensor], set[torch.dtype]]:
    """The tensors of `file`, or of the shards that it is the index of, as float32, and the dtypes they are kept in.

    Raises RequestError, with the file and the tensor, for what is damaged or missing, not floating-point, NaN or infinite.
    """
    shards = [file]
    if file.suffix == ".json":
        named = read_json(file).get("weight_map") or {}
        shards = [file.parent / Path(name).name for name in sorted(set(named.values()))]
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not shard.is_file():
            raise RequestError(f"model.path: {shard} is missing, and {file.name} needs it; restore it from where the model came from")
        loaded = _read_safetensors(shard)
        require_finite(loaded, f"model.path: {shard}")
        tensors |= loaded
    dtypes = {tensor.dtype for tensor in tensors.values()}
    return {name: tensor.float() for name, tensor in tensors.items()}, dtypes


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise RequestError(f"model.path: {file} is a pointer of Git LFS, not the weights; type git lfs pull in {file.parent}")
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"model.path: {file} is damaged or cut short ({first_line(error)}); restore it from where the model came "
                           "from") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise RequestError(f"model.path: {file}: {name} is {_dtype(tensor.dtype)}, allowed: floating-point weights in full precision, "
                               "which are quantized here; give the model as it was before")
    return tensors


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises RequestError with the first tensor that holds NaN or infinity; `what` names the source."""
    for name, tensor in tensors.items():
        wrong = int((~tensor.float().isfinite()).sum()) if tensor.is_floating_point() else 0
        if wrong:
            raise RequestError(f"{what}: {name} has {wrong} of {tensor.numel()} values that are NaN or infinite, allowed: finite weights; give "
                               "an earlier checkpoint, or save it anew")


def with_present_names(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the attention layers' names as diffusers has them today, where `own`, the network's, has those."""
    renamed = {}
    for name, tensor in tensors.items():
        stem, part, kind = (name.rsplit(".", 2) + ["", ""])[:3]
        today = f"{stem}.{RENAMED.get(part, part)}.{kind}"
        renamed[today if name not in own and today in own else name] = tensor
    return renamed


def differences(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """How `tensors` differ from the network's `own` in names and shapes, in words; empty where they fit."""
    missing = [name for name in own if name not in tensors]
    unknown = [name for name in tensors if name not in own]
    reshaped = [f"{name}: {list(tensors[name].shape)} instead of {list(own[name].shape)}"
                for name in own if name in tensors and own[name].shape != tensors[name].shape]
    found = (("missing", missing), ("unknown to it", unknown), ("of another shape", reshaped))
    return "; ".join(f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" for kind, names in found if names)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
