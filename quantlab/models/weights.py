"""Weight files: read safely, and refused in one line if unusable.

Only safetensors is read: loading a pickle can run code; `scripts/convert_weights.py` converts one to .safetensors.
`weight_names` matches tensors to networks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quantlab.errors import CorruptFileError, RequestError, did_you_mean
from quantlab.run.directory import RunDirectory
from quantlab.run.parsing import read_json
from quantlab.run.state import is_saved_state, load_model

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle", ".th")
INDEX = ".safetensors.index.json"
IN_A_FOLDER = (
    "checkpoints/model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    f"model{INDEX}",
    f"diffusion_pytorch_model{INDEX}",
)
LORA = ("lora_A", "lora_B", "lora_down", "lora_up")


def read(path: str | Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, facts) of a .safetensors file, the index of a sharded one, or a folder with either, such as a
    run's.

    Facts are quantlab's own metadata, empty for other files. Tensors are on the CPU, with the file's types.

    Raises RequestError in one line, under the name `key`, for a missing file, a pickle, a damaged file, one without
    tensors, a LoRA, and NaN or infinity.
    """
    file = locate(path, key)
    _require_readable(file, key)
    facts: dict[str, Any] = {}
    try:
        if file.name.endswith(INDEX):
            tensors = {name: tensor for shard in _shards(file, key) for name, tensor in load_file(shard).items()}
        elif is_saved_state(file.with_suffix("")) and file.suffix == ".safetensors":
            tensors, facts = load_model(file.with_suffix(""))
            _require_own(file, facts, key)
        else:
            tensors = load_file(file)
    except (SafetensorError, CorruptFileError, OSError, ValueError) as error:
        raise RequestError(
            f"{key}: {file} is not a sound safetensors file ({error}); copy or download it again"
        ) from error
    what = f"{key}: {file}"
    if not tensors:
        raise RequestError(f"{what} holds no tensors, allowed: the weights of a network")
    if lora := [name for name in tensors if any(part in LORA for part in name.split("."))]:
        raise RequestError(
            f"{what} is a LoRA ({lora[0]}), which is added to a network's weights, allowed: the weights themselves;"
            " merge it into its network with the tool that made it, and save that"
        )
    require_finite(tensors, what)
    return tensors, facts


def _require_own(file: Path, facts: Mapping[str, Any], key: str) -> None:
    """Raises RequestError for the model of another run in a run's directory."""
    run = RunDirectory(file.parent.parent)
    if file.parent != run.checkpoints or not run.is_ours():
        return
    try:
        run.require_own(facts, file)
    except RequestError as error:
        raise RequestError(f"{key}: {error}") from None


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises RequestError, which begins with `what` (the key and the file) and names the tensor, for NaN or infinity
    (as float32) in floating-point tensors.
    """
    bad = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.float().isfinite().all()
    ]
    if bad:
        others = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        raise RequestError(
            f"{what} holds NaN or infinity in {bad[0]}{others}, allowed: finite numbers; its training diverged or the"
            " file is damaged: give other weights"
        )


def locate(path: str | Path, key: str) -> Path:
    """The weight file at `path`: the file itself, or the one in a folder (of a run or a hub model). Raises
    RequestError.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        found = [file / name for name in IN_A_FOLDER if (file / name).is_file()] or sorted(file.glob("*.safetensors"))
        if len(found) == 1 or found and found[0].relative_to(file).as_posix() in IN_A_FOLDER:
            return found[0]
        if RunDirectory(file).is_ours():
            raise RequestError(
                f"{key}: the run in {file} left no model, allowed: a completed run; type resume={file} to complete it"
            )
        if found:
            raise RequestError(
                f"{key}: {file} holds {len(found)} files of weights, allowed: one; type {key}={found[0]}"
            )
        pickled = [one for one in sorted(file.iterdir()) if one.suffix in PICKLED]
        if not pickled:
            raise RequestError(
                f"{key}: {file} is a folder without weights, allowed: a .safetensors file, or the directory of a "
                "completed run"
            )
        file = pickled[0]
    if not file.is_file():
        there = [one.name for one in file.parent.iterdir()] if file.parent.is_dir() else []
        raise RequestError(f"{key}: no such file: {file}{did_you_mean(file.name, there)}")
    return file


def how_to_convert(file: Path, key: str) -> str:
    """The end of an error about a pickled `file`: how to convert it."""
    converted = file.with_suffix(".safetensors")
    return f"type python scripts/convert_weights.py {file} {converted.name}, then {key}={converted.name}"


def _require_readable(file: Path, key: str) -> None:
    with file.open("rb") as stream:
        start = stream.read(64)
    if file.name.endswith(INDEX) or start[8:9] == b"{":  # a safetensors file: the length of its header, then JSON
        return
    pickled = (
        start.startswith(b"PK")
        and file.suffix not in (".npz", ".zip")
        or start[:1] == b"\x80"
        and start[1:2] in b"\2\3\4\5"
    )
    if pickled or file.suffix in PICKLED:
        raise RequestError(
            f"{key}: {file} is pickled, and loading a pickle can run code, allowed: .safetensors; "
            + how_to_convert(file, key)
        )
    if start.startswith(b"version https://git-lfs"):
        raise RequestError(f"{key}: {file} only points to a file that git-lfs has not fetched; type git lfs pull there")
    if file.suffix != ".safetensors":
        raise RequestError(
            f"{key}: {file} is no safetensors file, allowed: .safetensors, or the directory of a completed run"
        )


def _shards(index: Path, key: str) -> list[Path]:
    """The files in a Hugging Face index, which are in the same folder."""
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    if missing := [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]:
        raise RequestError(
            f"{key}: {index} needs {missing[0]} in the same folder; copy or download all {len(names)} files"
        )
    return [index.parent / name for name in names]
