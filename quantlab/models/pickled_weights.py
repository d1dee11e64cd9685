"""The tensors of a pickled file, for `scripts/convert_weights.py` alone: no run loads a pickle.

torch reads it with weights_only=True, which creates tensors and plain containers and executes nothing. The only other
class allowed is argparse.Namespace, in which training scripts save their arguments.
"""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from quantlab.errors import RequestError
from quantlab.run.atomic_files import atomic_write

DEEPEST = 4  # levels of nested containers that are searched for a state dict


def convert(source: Path, target: Path, key: str | None = None) -> list[str]:
    """Write the state dict of `source` (a pickle of torch's, or a .safetensors file) to the new file `target`; returns
    messages for the user.

    key: selects one of several state dicts, or a prefix, which is removed from the names. Data types are kept; tensors
    that share memory are stored separately. Raises RequestError in one line if `source` cannot be read or `target`
    exists.
    """
    if target.suffix != ".safetensors":
        raise RequestError(
            f"got {target} to write, allowed: a name that ends in .safetensors; type"
            f" {target.with_suffix('.safetensors')}"
        )
    if target.exists():
        raise RequestError(f"{target} is already there, allowed: a new file; type another name, or remove it")
    if not target.parent.is_dir():
        raise RequestError(f"there is no folder {target.parent} to write {target.name} into")
    place, state = _chosen(read_pickle(source), source, key)
    found = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if strange := [name for name, value in found.items() if value.layout != torch.strided or value.is_quantized]:
        raise RequestError(
            f"{source}: {strange[0]} is sparse or quantized, allowed: ordinary tensors; give the file it was made from"
        )
    tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in found.items()}
    # other libraries require the format entry
    atomic_write(target, safetensors.torch.save(tensors, {"format": "pt"}))
    said = [f"{len(tensors)} tensors" + (f" of '{place}'" if place else "") + f": {target}"]
    if left := [str(name) for name in state if name not in tensors]:
        said.append(f"left out, as no tensors: {', '.join(left)}")
    return said


def read_pickle(path: Path) -> Any:
    """What torch.load returns for tensors and plain containers, or the tensors of a .safetensors file. Raises
    RequestError in one line.
    """
    if not path.is_file():
        raise RequestError(f"no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"holds {found[1]}, more than tensors and plain containers" if found else "is no sound file of torch.save"
        )
        raise RequestError(
            f"{path} {what}, and loading it could run code; where it was made, save torch.save(model.state_dict(),"
            " FILE), or ask for a .safetensors file"
        ) from None
    except Exception as error:  # a damaged pickle can fail anywhere
        reason = str(error).strip().splitlines()
        said = reason[0][:160] if reason else type(error).__name__
        raise RequestError(f"{path} cannot be read ({said}); copy or download it again") from None


def state_dicts(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, mapping) of every mapping in `content` that looks like a state dict: at least as many named tensors as
    mappings.
    """
    if not isinstance(content, Mapping) or depth > DEEPEST or not all(isinstance(name, str) for name in content):
        return
    inner = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    tensors = sum(isinstance(value, Tensor) and value.ndim > 0 for value in content.values())
    if tensors and tensors >= len(inner):
        yield place, content
    for name, value in inner.items():
        yield from state_dicts(value, f"{place}.{name}" if place else name, depth + 1)


def _chosen(content: Any, source: Path, key: str | None) -> tuple[str, Mapping[str, Any]]:
    found = dict(state_dicts(content))
    if not found:
        parts = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise RequestError(
            f"{source} holds no tensors by name ({parts[:160]}), allowed: a state dict, or a checkpoint with one"
        )
    if key is not None:
        if key in found:
            return key, found[key]
        under = {
            name.removeprefix(f"{key}."): value
            for state in found.values()
            for name, value in state.items()
            if name.startswith(f"{key}.")
        }
        if under:
            return key, under
    if key is not None or len(found) > 1:
        counts = {place: sum(isinstance(value, Tensor) for value in state.values()) for place, state in found.items()}
        listed = ", ".join(f"'{place}' ({count} tensors)" for place, count in counts.items())
        got = f"nothing under '{key}', but" if key is not None else "several state dicts:"
        raise RequestError(f"{source} holds {got} {listed}, allowed: one; type --key {next(iter(found)) or 'PREFIX'}")
    return next(iter(found.items()))
