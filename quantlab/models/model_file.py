"""checkpoints/model.safetensors: the tensors of a model and, in the file's header and in the JSON beside it, what they
are of. `quantlab.load` makes the module of it again, without config and data.

What is said, as JSON under `quantlab` in the header:

    run_format     number of the format (`quantlab.run.formats`)
    architecture   library `diffusers` (class and config), `timm` or `quantlab` (section `model`, what of the task sizes
                   it)
    quantizer      the section `quantizer`, where the model is quantized
    layers         by name of a quantized layer or attention: bits, and of its weight the quantizer, axis and grid
    timesteps      of a denoiser quantized after training: its denoising steps, and
    group_size     how many of them share a set of activation scales: set k is for steps k group_size and on
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantlab.config import RunConfig, to_plain
from quantlab.errors import CorruptFileError, RequestError, RunError
from quantlab.quantizers.attention import QuantizedAttention
from quantlab.quantizers.insert import OPERANDS
from quantlab.quantizers.layer import QuantizedLayer
from quantlab.quantizers.stored_layer import stored_tensors, take_tensors, weight_facts
from quantlab.run import binding, formats
from quantlab.run.parsing import parse_json
from quantlab.run.state import save_state, strict_load

KEY = "quantlab"  # in the header
logger = logging.getLogger("quantlab")
SIZES = ("name", "channels", "classes", "image_size", "scale")  # of a task, what networks are built for


def save_model_file(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], bound: Mapping[str, Any] | None = None
) -> None:
    """Write `path` and the JSON beside it, which alone says of which run it is (`bound`): the tensors' file of two runs
    of one config is the same. Raises: OSError (a full disk), when nothing half-written is left.
    """
    more = {} if bound is None else {binding.KEY: bound}
    # One key alone: safetensors writes several in no order, and the same run would leave other bytes.
    save_state(path.with_suffix(""), dict(tensors), header={KEY: json.dumps(facts)}, **facts, **more)


def read_description(path: Path) -> dict[str, Any]:
    """What the header of the file says, {} where it says nothing. Raises: CorruptFileError, RequestError for a format
    of another version.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = parse_json((file.metadata() or {}).get(KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise CorruptFileError(f"{path} is damaged: {error}") from None
    formats.require_readable(facts.get(formats.KEY, 1), str(path))
    return facts


# what is said of a model ---------------------------------------------------------------------------------------------
def describe_model(config: RunConfig, task: Any, network: nn.Module) -> dict[str, Any]:
    """What a file with the tensors of `network`, that a run of this config has made, says of them."""
    layers = {name: _layer_facts(layer, config.quantizer.name) for name, layer in quantized_layers(network).items()}
    layers |= {
        name: {"bits": {operand: _bits(getattr(module, operand, None)) for operand in OPERANDS}}
        for name, module in network.named_modules()
        if isinstance(module, QuantizedAttention)
    }
    facts = {formats.KEY: formats.FORMAT, "architecture": _architecture(config.model, task, network)}
    return facts | ({"quantizer": to_plain(config.quantizer), "layers": layers} if layers else {})


def _architecture(section: Any, task: Any, network: nn.Module) -> dict[str, Any]:
    if section.kind == "denoiser":
        config = {name: value for name, value in network.config.items() if not name.startswith("_")}
        return {"library": "diffusers", "class": type(network).__name__, "config": config}
    plain = to_plain(section) | {"weights": None}
    plain |= {"pretrained": False} if "pretrained" in plain else {}
    sizes = {name: getattr(task, name) for name in SIZES if hasattr(task, name)}
    library = "timm" if plain["_target_"].endswith("build_timm_classifier") else "quantlab"
    return {"library": library, "model": plain, "task": sizes}


def _layer_facts(layer: QuantizedLayer, quantizer: str) -> dict[str, Any]:
    weight, activation, gradient = layer.weight_quantizer, layer.activation_quantizer, layer.gradient_quantizer
    facts: dict[str, Any] = {"bits": {"weight": _bits(weight), "input": _bits(activation), "gradient": _bits(gradient)}}
    if weight is None:
        return facts
    return facts | {"weight": weight_facts(layer, quantizer) if _packed(layer) else {"quantizer": quantizer}}


def _bits(quantizer: Any) -> int:
    return getattr(quantizer, "bits", 32)


# a layer's tensors ---------------------------------------------------------------------------------------------------
def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """What the file holds of `network`, by name."""
    tensors = network.state_dict()
    for name, layer in quantized_layers(network).items():
        for own in layer.state_dict():
            del tensors[f"{name}.{own}"]
        stored = _packed(layer) or layer.state_dict()
        tensors |= {f"{name}.{own}": tensor for own, tensor in stored.items()}
    return tensors


def _packed(layer: QuantizedLayer) -> dict[str, Tensor] | None:
    """`stored_tensors`, or None of a weight that has left its grid, as where training shrank an interval to nothing:
    it is stored as it is.
    """
    try:
        return stored_tensors(layer)
    except RunError as error:
        logger.warning("a layer's weight is saved in full precision (%s)", error)
        return None


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], what: str, facts: Mapping[str, Any]) -> None:
    """Give `network`, whose layers are quantized, what `tensors_of` gave. Raises RequestError, in which `what` names
    the file, where it has others. facts: what the file says.
    """
    state = dict(tensors)
    for name, layer in quantized_layers(network).items():
        stored = {own: state.pop(own) for own in tensors if own.startswith(f"{name}.")}
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in stored.items()}
        said = facts.get("layers", {}).get(name, {}).get("weight", {})
        try:
            state |= {f"{name}.{key}": tensor for key, tensor in take_tensors(layer, own, said).items()}
        except (KeyError, RuntimeError, RunError) as error:
            raise RequestError(f"{what} is damaged: {name}: {type(error).__name__}: {error}") from error
    strict_load(network, state, what)


def require_described(facts: Mapping[str, Any], path: Path) -> None:
    """Raises RequestError in one line where the file does not say what network it is of."""
    if "architecture" not in facts:
        raise RequestError(
            f"{path} does not say what network it holds: an earlier version or another tool left it, or it is a"
            " supernet's; of a run's, type quantlab method=evaluate method.run=DIR"
        )
