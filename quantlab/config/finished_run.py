"""method.run: the config of a method that acts on a finished run. It takes that run's task, model and quantizer.

What was typed beside it wins where it can be meant: another task, keys of the task, where data and files lie now. How
images are fed to the network (`FED`) belongs to the network, so it stays that run's under another task too, unless
typed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantlab.config.methods.base import Method
from quantlab.config.plain import to_plain
from quantlab.config.sections import section_in
from quantlab.config.validation import RunConfig, load_config
from quantlab.errors import RequestError
from quantlab.run.directory import RunDirectory

FED = ("image_size", "channels", "normalization", "scale")


def with_finished_run(mapping: Mapping[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """The resolved plain config `mapping`, with what the run in `method.run` brings where its method opens one, still
    to be validated.

    typed: the user's overrides, `KEY=VALUE`. Raises RequestError where no finished run of a fitting kind is there, or
    what was typed beside it contradicts it.
    """
    ours = dict(mapping)
    own = ours.get("method") or {}
    method, run = section_in("method", ours), own.get("run")
    if not (method and issubclass(method, Method) and method.opens_run and isinstance(run, str)):
        return ours
    run = Path(run).expanduser().absolute()
    other = _finished(run, own["name"], method)
    keys = [word.lstrip("+").split("=", 1)[0] for word in typed]
    _refuse_contradictions(keys, ours, other)

    theirs = to_plain(other)
    model, task = theirs["model"], theirs["task"]
    if other.quantizer.kind != "post-training":  # else they are the full precision that it is compared with
        model["weights"] = None
        model |= {"pretrained": False} if "pretrained" in model else {}
    if "task" in keys and ours["task"]["name"] != other.task.name:
        task = ours["task"] | {key: task[key] for key in FED if key in task and key in ours["task"]}
    elif "data_dir" in keys and "data_dir" in task:
        task["data_dir"] = ours["data_dir"]
    merged = ours | {"task": task, "model": model, "quantizer": theirs["quantizer"], "method": own | {"run": str(run)}}
    for key in keys:
        if key.startswith(("task.", "model.")):
            _put(merged, key, _value(mapping, key))
    return merged


def _finished(run: Path, name: str, method: type[Method]) -> RunConfig:
    """The config of the run in `run`, which is of a kind that `method` opens, has completed and left a model."""
    try:
        other = load_config(run)
    except RequestError as error:
        raise RequestError(*(f"method.run: {problem}" for problem in error.problems)) from None
    found = (
        f"method.run: got {run}, a run of method={other.method.name} with model={other.model.name} (a"
        f" {other.model.kind})"
    )
    if other.model.not_opened is not None:
        raise RequestError(f"{found}, {other.model.not_opened}")
    if other.model.kind not in method.model_kinds:
        raise RequestError(
            f"{found}, but method={name} needs one of a {' or '.join(method.model_kinds)}; give another run"
        )
    directory = RunDirectory(run)
    if not directory.results_path.is_file():
        raise RequestError(f"{found}, which has not completed; go on with it: quantlab resume={run}")
    if not directory.model_path.is_file():
        raise RequestError(
            f"{found}, which left no checkpoints/model.safetensors; give a run that trained or quantized a model"
        )
    return other


def _refuse_contradictions(keys: Sequence[str], ours: Mapping[str, Any], other: RunConfig) -> None:
    is_other = {group: ours[group]["name"] != getattr(other, group).name for group in ("model", "quantizer")}
    # where files lie now
    moved = ["model.path"] + (["model.weights"] if other.quantizer.kind == "post-training" else [])
    refused = [
        key
        for key in keys
        if key == "experiment"
        or is_other.get(key, False)
        or key.startswith(("model.", "quantizer."))
        and key not in moved
    ]
    if refused:
        raise RequestError(
            f"{', '.join(refused)}: typed beside method.run, whose model and quantizer are taken as they are, allowed: "
            f"task, task.*, data_dir, {', '.join(moved)}; drop {' '.join(refused)}"
        )


def _value(plain: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        plain = plain[part]
    return plain


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; one that the mapping does not have is for `validate` to name."""
    *parents, last = key.split(".")
    for part in parents:
        plain = plain.setdefault(part, {})
    plain[last] = value
