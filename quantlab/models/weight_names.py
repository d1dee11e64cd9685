"""Matching the tensors of a file to the names of the network that loads them.

Differences in names are resolved; other differences are refused and reported. A file may have
- names with prefixes (`model.`, `net.backbone.`) and those of wrappers (`module.`, `_orig_mod.`); several copies of the
  network, of which the moving average is used; other entries (a loss, a counter);
- torchvision's names for a timm network; another name for the last layer; for a detector only its body's classifier;
- no `num_batches_tracked`, or constants that are no longer stored;
- other classes: then the layers that depend on them keep their initialization and are reported as new.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.models.torchvision_names import torchvision_names

# of parallel, compiled and checkpointed modules
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
AVERAGE = ("ema", "averag", "swa")
CONSTANTS = ("num_batches_tracked", "n_averaged", "relative_position_index", "attn_mask", "total_ops", "total_params")
SHOWN = 3  # differing names in a message


@dataclass(frozen=True)
class Match:
    """tensors: the network's whole state dict, with its initial values in the layers `new`, for which the file has no
    fitting tensors. notes: how the file differed, for the user.
    """

    tensors: dict[str, Tensor]
    new: list[str]
    notes: list[str]


@dataclass(frozen=True)
class View:
    """How a file is read: its name for a tensor of the network is `prefix + names[name]`."""

    names: dict[str, str]
    prefix: str = ""
    notes: tuple[str, ...] = ()
    body_only: bool = False


def match(tensors: Mapping[str, Tensor], module: nn.Module, what: str) -> Match:
    """Which of a file's tensors goes where in `module`, whose class may define `class_layers`, the names of the layers
    that output classes; `body_name`, the part that a file may hold by itself; `options_of(tensors)`, the config options
    that such tensors were made with; `current_state_dict(tensors, own)`, which converts tensors of older versions to
    those of its present state dict `own`.

    Raises RequestError, which begins with `what` (the key and the file), unless all differences are among those in the
    module's docstring.
    """
    own = module.state_dict()
    given = _without_wrappers(tensors, own)
    if hasattr(module, "current_state_dict"):
        given = module.current_state_dict(given, own)
    view = _best_view(given, own, module, what)
    narrow = {str(tensor.dtype).removeprefix("torch.") for tensor in given.values() if tensor.is_floating_point()} - {
        "float32"
    }
    notes = [*view.notes, *(f"{dtype} becomes float32" for dtype in sorted(narrow))]
    found = {name: given[view.prefix + theirs] for name, theirs in view.names.items() if view.prefix + theirs in given}
    read = {view.prefix + theirs for theirs in view.names.values()}
    constants = {*CONSTANTS, *(_last(name) for name, _ in module.named_buffers() if name not in own)}
    left = [name for name in given if name not in read and _last(name) not in constants]
    missing = [
        name
        for name in view.names
        if name not in found and (_last(name) not in constants or own[name].is_floating_point())
    ]
    class_layers = [layer for layer in getattr(module, "class_layers", ()) if f"{layer}.weight" in own]

    if last_layer := _last_layer_renamed(
        missing, [name for name in left if name.startswith(view.prefix)], own, given, class_layers
    ):
        found |= {name: given[theirs] for name, theirs in last_layer.items()}
        notes += [
            f"'{_layer(theirs)}' is the network's '{_layer(name)}'" for name, theirs in list(last_layer.items())[:1]
        ]
        missing = [name for name in missing if name not in last_layer]
        left = [name for name in left if name not in last_layer.values()]
    if coded := [name for name in found if own[name].is_floating_point() and not found[name].is_floating_point()]:
        raise RequestError(
            f"{what} holds {found[coded[0]].dtype} in {coded[0]}, allowed: weights in full precision, as floating-point"
            " numbers; give the file that it was quantized from"
        )
    fitting = {name: _fitted(found[name], own[name], renamed=view.names.get(name, name) != name) for name in found}
    reshaped = [name for name, tensor in fitting.items() if tensor is None]
    unexpected = [name for name in left if name.startswith(view.prefix)] if not view.body_only else []
    new = _new_layers(missing, reshaped, found, own, class_layers)
    explained = {name for name in own if _layer(name) in new}
    if unexpected or not explained.issuperset([*missing, *reshaped]):
        stripped = {name.removeprefix(view.prefix): tensor for name, tensor in given.items()}
        missing, reshaped = ([name for name in names if name not in explained] for names in (missing, reshaped))
        differing = {name: found[name] for name in reshaped}
        raise RequestError(_difference(what, missing, unexpected, differing, own, _options(module, own, stripped)))
    if outside := [name for name in left if name not in unexpected]:
        notes.append(f"not read: {shortened(outside)}")
    if view.body_only:
        new = [f"all but {module.body_name}"]
    return Match(own | {name: tensor for name, tensor in fitting.items() if name not in explained}, new, notes)


def shortened(names: Collection[str]) -> str:
    """The first few of `names`, and their number."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{len(names)} tensors ({shown}, ...)"


def _without_wrappers(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the name parts of module wrappers, unless two names would then collide."""
    wrappers = set(WRAPPERS) - {part for name in own for part in name.split(".")}
    renamed = {
        ".".join(part for part in name.split(".") if part not in wrappers): tensor for name, tensor in tensors.items()
    }
    return renamed if len(renamed) == len(tensors) else dict(tensors)


def _best_view(given: Mapping[str, Tensor], own: Mapping[str, Tensor], module: nn.Module, what: str) -> View:
    """The way to read the file that finds the most tensors: with the network's names, torchvision's, or those of the
    body.
    """
    ways = [
        (names, body_only, _prefixes(given, set(names.values()))) for names, body_only in _vocabularies(own, module)
    ]
    names, body_only, prefixes = max(ways, key=lambda way: max(way[2].values(), default=0))  # ties: the first
    most = max(prefixes.values(), default=0)
    if most < len(names) / 2:  # another network with some names in common
        return View(names, body_only=body_only)
    return View(names, *_chosen_copy([prefix for prefix in prefixes if prefixes[prefix] == most], what), body_only)


def _vocabularies(own: Mapping[str, Tensor], module: nn.Module) -> Iterator[tuple[dict[str, str], bool]]:
    """Possible names in a file, by the network's, and whether they cover only the body."""
    yield {name: name for name in own}, False
    if names := torchvision_names((getattr(module, "pretrained_cfg", None) or {}).get("architecture", "")):
        yield {name: names[name] for name in own}, False
    if body := getattr(module, "body_name", None):
        yield {name: name.removeprefix(f"{body}.") for name in own if name.startswith(f"{body}.")}, True


def _prefixes(given: Iterable[str], wanted: Collection[str]) -> Counter[str]:
    """The prefixes of wanted names, with the number of names for each. A prefix ends with a dot or is empty."""
    found: Counter[str] = Counter()
    for name in given:
        parts = name.split(".")
        found.update(
            name[: len(name) - len(rest)] for i in range(len(parts)) if (rest := ".".join(parts[i:])) in wanted
        )
    return found


def _chosen_copy(prefixes: list[str], what: str) -> tuple[str, tuple[str, ...]]:
    """Which of the copies of the network under these prefixes to use, and notes on it."""
    if len(prefixes) > 1:
        averages = [prefix for prefix in prefixes if any(word in prefix.lower() for word in AVERAGE)]
        if len(averages) != 1:
            named = ", ".join(f"'{prefix}'" for prefix in prefixes)
            raise RequestError(
                f"{what} holds the network {len(prefixes)} times, under {named}, allowed: once, or with one moving"
                " average; type python scripts/convert_weights.py FILE NEW.safetensors --key"
                f" {prefixes[-1].rstrip('.')}"
            )
        return averages[0], (f"the moving average under '{averages[0]}' is taken",)
    prefix = prefixes[0] if prefixes else ""
    return prefix, ((f"names are under '{prefix}'",) if prefix else ())


def _last_layer_renamed(
    missing: list[str],
    unexpected: list[str],
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    class_layers: list[str],
) -> dict[str, str]:
    """If the last layer is missing and a single layer with as many inputs is left over, the names of that one, by the
    network's.
    """
    theirs = {_layer(name) for name in unexpected}
    if len(class_layers) != 1 or len(theirs) != 1:
        return {}
    pairs = {name: f"{next(iter(theirs))}.{_last(name)}" for name in own if _layer(name) == class_layers[0]}
    same = set(pairs.values()) == set(unexpected) and all(
        given[other].shape[1:] == own[name].shape[1:] for name, other in pairs.items()
    )
    return pairs if same and set(pairs) <= set(missing) else {}


def _new_layers(
    missing: list[str],
    reshaped: list[str],
    found: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    class_layers: list[str],
) -> list[str]:
    """The layers that output classes, if the file lacks them or has other numbers of outputs."""
    new = []
    for layer in class_layers:
        names = [name for name in own if _layer(name) == layer]
        other_classes = all(name in found and found[name].shape[1:] == own[name].shape[1:] for name in names)
        if all(name in missing for name in names) or (other_classes and any(name in reshaped for name in names)):
            new.append(layer)
    return new


def _fitted(tensor: Tensor, own: Tensor, renamed: bool) -> Tensor | None:
    """`tensor` in the shape of `own`; None if it has another. For renamed tensors, shapes with as many elements fit:
    timm's and torchvision's differ.
    """
    if tensor.shape == own.shape:
        return tensor
    return tensor.reshape(own.shape) if renamed and tensor.numel() == own.numel() else None


def _options(module: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, object]:
    """Config options in which the file's network differs, with its values."""
    if not hasattr(module, "options_of"):
        return {}
    ours, theirs = module.options_of(own), module.options_of(given)
    return {option: value for option, value in theirs.items() if value != ours[option]}


def _difference(
    what: str,
    missing: list[str],
    unexpected: list[str],
    reshaped: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    options: Mapping[str, object],
) -> str:
    parts = [f"{kind} {shortened(names)}" for kind, names in (("lacks", missing), ("also has", unexpected)) if names]
    shapes = [f"{name} {list(tensor.shape)} instead of {list(own[name].shape)}" for name, tensor in reshaped.items()]
    parts += [f"has {shortened(shapes)}"] if shapes else []
    fix = "choose the model and the options that it was made with"
    first = next((name for name in own if own[name].ndim == 4), None)
    if options:
        fix = "type " + " ".join(f"{option}={str(value).lower()}" for option, value in options.items())
    elif (
        not missing
        and not unexpected
        and next(iter(reshaped)) == first
        and reshaped[first].shape[::2] == own[first].shape[::2]
    ):
        fix = (
            f"its images have {reshaped[first].shape[1]} channels and the task's {own[first].shape[1]}: choose another"
            " task, or its task.channels"
        )
    return f"{what} is of another architecture than the model: it {'; it '.join(parts)}; {fix}"


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
