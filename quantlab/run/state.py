"""Any nested state as safetensors plus JSON, checksummed, with nothing pickled.

A saved state is two files. `<name>.safetensors` holds every tensor, under its path in the state, such as
"optimizer.state.0.exp_avg". `<name>.json` holds the rest: the structure that refers to those tensors, the facts that
were given, and the SHA-256 of the first file and of itself. It is written last: a state without it was never saved.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run.atomic_files import atomic_write, file_digest, replaced_whole
from quantlab.run.parsing import MOST_JSON, ParseError, parse_json, read_bounded

FORMAT = "quantlab state 1"
DOCUMENT_START = b'{"sha256":"'


def save_state(path: str | Path, state: Any, *, header: Mapping[str, str] | None = None, **facts: Any) -> None:
    """Write `state` to `<path>.safetensors` and `<path>.json`, each atomically.

    `state` nests dicts (keys str or int), lists and tuples; its leaves are tensors, numpy arrays, str, bool, int,
    float, None and numpy scalars (which come back as Python numbers). Tensors are copied to the CPU, and each is stored
    on its own, whatever memory it shared; those that lie on the CPU are written from where they are. `facts` are what a
    reader wants to know without the tensors, in strict JSON; `header` is the metadata of the first file.

    Raises: TypeError naming the place of anything else; OSError (a full disk), when nothing half-written is left.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(state, "", tensors)
    _tensors_path(path).parent.mkdir(parents=True, exist_ok=True)
    with replaced_whole(_tensors_path(path)) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; safetensors would leave the owner's alone
        try:
            safetensors.torch.save_file(_separate(tensors), temporary, dict(header) if header else None)
        except SafetensorError as error:
            raise _os_error(error) from error
        temporary.chmod(mode)
        content = {"format": FORMAT, "facts": facts, "tensors_sha256": file_digest(temporary), "structure": structure}
        document = _document(content)
    atomic_write(_json_path(path), document)


def load_state(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """(state, facts) as `save_state` was given them, tensors on the CPU.

    Raises: CorruptFileError naming the file whose bytes are not what was written, or that is missing from its pair;
    RequestError when nothing was saved at `path`.
    """
    content = _read_content(path)
    tensors_path = _tensors_path(path)
    if not tensors_path.is_file():
        raise CorruptFileError(f"{tensors_path} is missing, and {_json_path(path).name} needs it")
    if file_digest(tensors_path) != content["tensors_sha256"]:
        raise _damaged(tensors_path)
    return _decode(content["structure"], safetensors.torch.load_file(tensors_path)), content["facts"]


def remove_state(path: str | Path) -> None:
    """Remove what `save_state` wrote at `path`, if anything."""
    _json_path(path).unlink(missing_ok=True)
    _tensors_path(path).unlink(missing_ok=True)


def is_saved_state(path: str | Path) -> bool:
    """Whether `<path>.json` is one of ours, sound or not, and not what another tool left beside its own
    .safetensors file.
    """
    file = _json_path(path)
    try:
        return file.is_file() and read_bounded(file, MOST_JSON).startswith(DOCUMENT_START)
    except (OSError, ParseError):
        return False


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts of a saved state, without its tensors. Raises: as `load_state`."""
    return _read_content(path)["facts"]


def save_model(path: str | Path, module_state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a model's `state_dict()`: in `<path>.safetensors` each tensor has its own name, for other tools to read."""
    save_state(path, dict(module_state), **facts)


def load_model(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, facts) of `save_model`. Raises: as `load_state`."""
    return load_state(path)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of names and values: the key under which what was made from them is kept, wherever they were
    loaded from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_not_finite(state: Any) -> str | None:
    """The place, such as `model.conv.weight`, of the first tensor of a nested state that holds NaN or infinity; None
    where there is none.
    """
    tensors: dict[str, Tensor] = {}
    _encode(state, "", tensors)
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, {})[name] = tensor.isfinite().all()
    for verdicts in by_device.values():  # one synchronization each
        for name, is_finite in zip(verdicts, torch.stack([*verdicts.values()]).tolist()):
            if not is_finite:
                return name
    return None


def strict_load(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load `tensors` into `module`, every name and every shape as the module has them.

    Raises: RequestError in one line, with the count and the first of what differs; `what` names the source in it. The
    module is then unchanged.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    differences = []
    if missing:
        differences.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        differences.append(f"{len(unexpected)} unexpected (first: {unexpected[0]})")
    if reshaped:
        first = reshaped[0]
        shapes = f"{list(tensors[first].shape)} instead of {list(own[first].shape)}"
        differences.append(f"{len(reshaped)} of another shape (first: {first}, {shapes})")
    if differences:
        raise RequestError(
            f"{what} is a checkpoint of another architecture: of its tensors {', '.join(differences)};"
            " give the model and the quantizer that it was made with"
        )
    module.load_state_dict(dict(tensors))


def _tensors_path(path: str | Path) -> Path:
    return Path(f"{path}.safetensors")


def _json_path(path: str | Path) -> Path:
    return Path(f"{path}.json")


def _os_error(error: SafetensorError) -> OSError:
    """What the system said, such as that the disk is full, which safetensors tells in words only."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


def _damaged(path: Path) -> CorruptFileError:
    return CorruptFileError(f"{path} is damaged: its bytes are not those that were written")


def _document(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return f'{{"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","content":{text}}}\n'.encode()


def _read_content(path: str | Path) -> dict[str, Any]:
    json_path = _json_path(path)
    try:
        data = read_bounded(json_path, MOST_JSON)
    except FileNotFoundError:
        if _tensors_path(path).exists():
            raise CorruptFileError(f"{json_path} is missing, and {_tensors_path(path).name} needs it") from None
        raise RequestError(f"nothing is saved at {path}: there is no {json_path.name}") from None
    except ParseError as error:
        raise CorruptFileError(f"{json_path} is damaged: it {error}") from None
    try:
        content = parse_json(data)["content"]
        # One content has one spelling, so that a flipped byte shows wherever it is, even in a space or in the checksum.
        sound, number = _document(content) == data, content["format"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(json_path) from None
    if not sound:
        raise _damaged(json_path)
    if number != FORMAT:
        raise RequestError(
            f"{json_path} is of the format {number!r}, but this version reads {FORMAT!r}; the version of quantlab that"
            " wrote it reads it"
        )
    return content


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """`value` in JSON, its tensors put into `tensors`. An object `{tag: ...}` stands for what JSON has no word for."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"tensor": _put(value, place, tensors)}
    if isinstance(value, np.ndarray):
        return {"array": _put(torch.from_numpy(value.copy()), place, tensors)}
    if isinstance(value, np.generic):
        return _encode(value.item(), place, tensors)
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, (str, int))]:
            raise TypeError(f"{place or 'the state'} has the key {strange[0]!r}; a key must be str or int")
        return {"dict": [[key, _encode(inner, _join(place, key), tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encode(inner, _join(place, index), tensors) for index, inner in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise TypeError(f"{place or 'the state'} is a {type(value).__name__}, which a checkpoint does not hold")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = value.items()
    if tag == "dict":
        return {key: _decode(item, tensors) for key, item in inner}
    if tag == "tuple":
        return tuple(_decode(item, tensors) for item in inner)
    if tag == "float":
        return float(inner)
    return tensors[inner] if tag == "tensor" else tensors[inner].numpy()


def _join(place: str, key: str | int) -> str:
    return f"{place}.{key}" if place else str(key)


def _put(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> str:
    name = place or "state"
    while name in tensors:  # {"a.b": x, "a": {"b": y}}
        name += "'"
    tensors[name] = tensor.detach()
    return name


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` on the CPU, contiguous, no two in the same memory, as safetensors wants them."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.cpu().contiguous()
        if own.untyped_storage().data_ptr() in seen:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        separate[name] = own
    return separate
