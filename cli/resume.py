"""Resuming one run by `resume=DIR`, or the jobs of a sweep that is started again in the same directory."""

import contextlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from quantlab.cli.outcome import Outcome, outcome_of
from quantlab.config import RunConfig, config_hash, load_config, to_plain, validate
from quantlab.config.catalog import root_settings
from quantlab.errors import Interrupted, RequestError
from quantlab.run.directory import RunDirectory
from quantlab.run.parsing import ParseError, parse_yaml

# a run's location and device do not make it another experiment
NOT_THE_EXPERIMENT = ("output_dir", "resume", "device")

# allowed together with resume=: how the run is executed on this machine, not what it computes
BESIDE_RESUME = ("device", "cache_dir", "trainer.num_workers")


def resume(words: list[str]) -> Outcome:
    """Answer `resume=DIR`, alone or with words of `BESIDE_RESUME`. Raises `RequestError` where there is nothing to
    go on with.
    """
    others = [word for word in words if not word.startswith("resume=")]
    if wrong := [word for word in others if word.partition("=")[0] not in BESIDE_RESUME]:
        raise RequestError(
            f"resume= goes on with a run as it was configured, allowed beside it: {', '.join(BESIDE_RESUME)}; "
            f"drop {' '.join(wrong)}"
        )
    # Not Hydra's grammar: the names of sweep jobs hold "=" and ",", and a shell completes them unquoted.
    named = [word for word in words if word.startswith("resume=")][-1]
    directory = Path(named.removeprefix("resume=").strip("'\"")).expanduser().absolute()
    if not directory.is_dir():
        raise RequestError(f"resume: no such directory: {directory}; type the directory of an earlier run")
    if not RunDirectory(directory).holds_a_run():
        raise RequestError(f"resume: {directory} holds no run (no config.yaml); type the directory of an earlier run")
    if RunDirectory(directory).is_completed():
        raise RequestError(f"resume: {directory} already completed; results in {directory / 'results.json'}")
    RunDirectory(directory).lock.require_free()  # before anything is loaded
    # The directory may have been moved since, or handed over.
    config = _changed(load_config(directory), others)
    stands = Path(config.output_dir).absolute() == directory  # where it was started
    config = config.model_copy(update={"output_dir": str(directory), "resume": str(directory)})
    if not stands and not any(word.startswith("cache_dir=") for word in others):
        config = config.model_copy(update={"cache_dir": _cache_of(config)})
    try:
        _run(config, typed=RunDirectory(directory).read_typed())
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        return outcome_of(error, directory).tell()
    return Outcome(directory=directory)


def taken_by_another(config: RunConfig, directory: Path) -> list[str]:
    """A line where another experiment than `config` stands in `directory`."""
    if RunDirectory(directory).holds_a_run() and _experiment(load_config(directory)) != _experiment(config):
        return [f"{directory} holds another experiment; type another output_dir"]
    return []


def run_or_go_on(config: RunConfig, typed: list[str], may_stand: bool) -> None:
    """Run `config` in its directory. Where that run stands there already (`may_stand`): skip it, or go on with it.

    Raises `RequestError` where another experiment stands there, and whatever the run raises.
    """
    directory = Path(config.output_dir)
    if may_stand and RunDirectory(directory).holds_a_run():
        if taken := taken_by_another(config, directory):
            raise RequestError(*taken)
        if RunDirectory(directory).is_completed():
            return
        RunDirectory(directory).lock.require_free()  # before anything is loaded
        config = config.model_copy(update={"resume": str(directory)})
    _run(config, typed)


def _changed(config: RunConfig, words: list[str]) -> RunConfig:
    """`config` with the values of `words`, such as "trainer.num_workers=0". Raises `RequestError` for a value that
    is not allowed.
    """
    plain = to_plain(config)
    for word in words:
        key, _, value = word.partition("=")
        group, _, name = key.rpartition(".")
        (plain[group] if group else plain)[name] = _parsed(word, value)
    return validate(plain) if words else config


def _cache_of(config: RunConfig) -> str:
    """The cache that the config names where one is there, else the user's own: nothing new is made wherever somebody
    else's config says.
    """
    own = str(Path(OmegaConf.create(root_settings(["cache_dir"])).cache_dir).expanduser())
    if config.cache_dir == own or holds_a_cache(Path(config.cache_dir)):
        return config.cache_dir
    print(
        f"quantlab: cache_dir of this run, {config.cache_dir}, holds no cache; {own} is used (to use it, type"
        f" {shlex.quote(f'cache_dir={config.cache_dir}')} too)",
        file=sys.stderr,
    )
    return own


def holds_a_cache(folder: Path) -> bool:
    """Whether `quantlab.run.cache` has written there: KIND/16 hexadecimal digits."""
    with contextlib.suppress(OSError):
        things = (entry for entry in folder.glob("*/*") if re.fullmatch("[0-9a-f]{16}", entry.name) and entry.is_dir())
        return any(any(thing.iterdir()) for thing in things)
    return False


def _parsed(word: str, value: str) -> Any:
    try:
        return parse_yaml(value)
    except ParseError as error:
        raise RequestError(f"{word}: not a value in YAML ({error}); type KEY=VALUE") from None


def _experiment(config: RunConfig) -> str:
    return config_hash(config, without=NOT_THE_EXPERIMENT)


def _run(config: RunConfig, typed: list[str]) -> None:
    from quantlab.runner import run

    run(config, typed)
