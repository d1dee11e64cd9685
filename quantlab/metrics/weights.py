"""Weights of the networks that metrics need: found on disk, and fetched only where that was asked for."""

import json
from pathlib import Path
from pickle import UnpicklingError

from quantlab.errors import RequestError

# What torch raises for a file that holds something else than tensors, which is all that it reads
NO_WEIGHTS = (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, UnpicklingError)


class WeightsAbsent(Exception):
    """Says `weights absent at PATH`."""

    def __init__(self, path: Path | str):
        super().__init__(f"weights absent at {path}")


def hub_file(url: str, download: bool) -> Path:
    """The file of torch's hub that `url` names. Raises: WeightsAbsent; RequestError where it cannot be fetched."""
    from torch import hub

    path = Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    if not download:
        raise WeightsAbsent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.download_url_to_file(url, str(path))
    except (OSError, RuntimeError) as error:
        raise not_fetched(path, error) from error
    return path


def model_folder(key: str, name: str, kind: str, download: bool) -> Path:
    """The directory `name`, or the snapshot of that hub id, with config.json of the model type `kind`, weights in
    safetensors, and the files of its processor. Raises: WeightsAbsent; RequestError for a model of another type.
    """
    folder = Path(name) if Path(name).is_dir() else _snapshot(name, download)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise WeightsAbsent(folder / "model.safetensors")
    try:
        found = dict(json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{key}: {folder / 'config.json'} is damaged ({error}); put it back") from error
    own = found.get("model_type")
    if own != kind or "auto_map" in found:
        raise RequestError(f"{key}: {folder} holds a model of the type {own}, allowed: {kind}; type {key}=DIR")
    return folder


def _snapshot(name: str, download: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    place = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    try:
        files = ["*.json", "*.txt", "*.safetensors"]
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=not download))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        if download:
            raise not_fetched(place, error) from error
        raise WeightsAbsent(place) from None
    except (OSError, HfHubHTTPError) as error:
        raise not_fetched(place, error) from error


def not_fetched(path: Path, error: Exception) -> RequestError:
    said = str(error).strip().partition("\n")[0]
    return RequestError(
        f"task.evaluation.download: the weights of {path} cannot be fetched ({type(error).__name__}: {said}); connect"
        " once, put the file there, or type task.evaluation.download=false, and what needs it is not measured"
    )
