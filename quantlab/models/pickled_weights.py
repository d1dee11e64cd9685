"""The tensors of a pickled file, for `scripts/convert_weights.py` alone: no run loads a pickle.

torch reads it with weights_only=True, which makes tensors and plain containers and executes nothing. Of classes only
argparse.Namespace is let in beside them, which training scripts save their arguments in.
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

DEEPEST = 4  # containers inside each other in which a state dict is looked for


def convert(source: Path, target: Path, key: str | None = None) -> list[str]:
    """Write the state dict of `source` (a pickle of torch's, or a .safetensors file) to the new file `target`; returns
    what to say of it.

    key: which of several state dicts, or behind which prefix; its names lose that. Data types are kept, tensors that
    share memory are stored each on its own. Raises RequestError in one line for what cannot be read, or where `target`
    is already there.
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
    # without the format other libraries do not read it
    atomic_write(target, safetensors.torch.save(tensors, {"format": "pt"}))
    said = [f"{len(tensors)} tensors" + (f" of '{place}'" if place else "") + f": {target}"]
    if left := [str(name) for name in state if name not in tensors]:
        said.append(f"left out, as no tensors: {', '.join(left)}")
    return said


def read_pickle(path: Path) -> Any:
    """What torch.load gives of tensors and plain containers; of a .safetensors file its tensors. Raises
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
    except Exception as error:  # a damaged pickle may fail anywhere
        reason = str(error).strip().splitlines()
        said = reason[0][:160] if reason else type(error).__name__
        raise RequestError(f"{path} cannot be read ({said}); copy or download it again") from None


def state_dicts(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, mapping) of every mapping in `content` that looks like a state dict: it holds tensors by name, no
    fewer than mappings.
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
