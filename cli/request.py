"""A typed request, checked as a whole before anything starts: every job of it composed and validated, no torch.

Hydra stops at the first thing that is wrong, late and at length; here all of it is found, each a line with a remedy.
"""

import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quantlab.atomic_files import claim_directory
from quantlab.cli.overrides import as_value, dotted_keys, group_problems, is_group, key_problems, parse
from quantlab.config import find_problems
from quantlab.errors import RequestError
from quantlab.run_directory import RunDirectory


@dataclass(frozen=True)
class Request:
    """`words`: what Hydra gets; `swept`: per job, the overrides that set it apart; `directory`: absolute, of all; `new`: it and
    those above it that were not there before, innermost first."""

    words: tuple[str, ...]
    multirun: bool
    swept: tuple[tuple[str, ...], ...]
    directory: Path
    new: tuple[Path, ...] = ()

    @property
    def again(self) -> list[str]:
        """The words that go on with this request, in the same directory."""
        typed = [word for word in self.words if not word.startswith(("hydra.", "output_dir="))]
        return [*typed, f"output_dir={as_value(str(self.directory))}"]


def check_request(overrides: list[str], multirun: bool) -> Request:
    """What is to be done, if all of it is sound. Raises `RequestError` with every problem, each said once."""
    follower = os.environ.get("RANK", "0") != "0"
    if multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError("-m: a sweep cannot run under torchrun; start torchrun once for each job, without -m")
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        parsed, problems = parse(overrides, multirun)
        jobs = _expand(parsed)
        swept = [[word for word in job if _key(word) in _swept_keys(parsed)] for job in jobs]
        key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
        composed = [_examine(job, key) for job in jobs]
    problems += _said_once([found for found, *_ in composed], swept)
    if problems:
        raise RequestError(*problems)
    _, named, by_clock = composed[0]
    directory, new = Path(named).expanduser().absolute(), ()
    if not follower:
        _refuse_unusable(directory, multirun or by_clock)
        new = tuple(folder for folder in (directory, *directory.parents) if not folder.exists())
        if by_clock:
            directory = claim_directory(directory)
            new = (directory, *new[1:])
    # The directory is settled here, once: a clock that ticks between this check and the run must not move it. Only
    # the first process of torchrun makes it.
    words = [*overrides, f"{key}={'.' if follower else as_value(str(directory))}"]
    if multirun:
        varied = {override.key_or_group for override in parsed if override.is_sweep_override()}
        fixed = {override.key_or_group for override in parsed} - varied
        names = ",".join(map(as_value, sorted(fixed)))
        words = ["-m", *words, f"hydra.job.config.override_dirname.exclude_keys=[{names}]"]
    return Request(tuple(words), multirun, tuple(map(tuple, swept)), directory, new)


def _compose(overrides: list[str], directory_key: str) -> tuple[dict[str, Any], str, bool]:
    """The resolved config of one job as plain data, its directory as Hydra has it under `directory_key`, and whether that is
    `output_dir` and named by the time, as by default: then a name beside it will do as well."""
    config = compose("config", overrides, return_hydra_config=True)
    directory = OmegaConf.select(config, directory_key)
    with open_dict(config):
        del config["hydra"]
    by_clock = "${now:" in str(OmegaConf.to_container(config, resolve=False)["output_dir"]) and directory == config.output_dir
    return OmegaConf.to_container(config, resolve=True), directory, by_clock


def _expand(parsed: list[Override]) -> list[list[str]]:
    """The overrides of every job, in the order in which Hydra's sweeper starts them."""
    if not any(override.is_sweep_override() for override in parsed):
        return [[override.input_line for override in parsed]]
    try:
        return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        raise RequestError(f"-m: {_first_line(error)}; list the values, as in seed=0,1,2") from None


def _key(word: str) -> str:
    return word.split("=", 1)[0]


def _swept_keys(parsed: list[Override]) -> set[str]:
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


def _said_once(problems: list[list[str]], swept: list[list[str]]) -> list[str]:
    """Every problem of every job once, with the first job that has it where not all do."""
    seen: dict[str, list[int]] = {}
    for number, found in enumerate(problems):
        for problem in found:
            seen.setdefault(problem, []).append(number)
    return [
        problem if len(numbers) == len(problems)
        else f"{problem} (job {' '.join(swept[numbers[0]])}; {len(numbers)} of {len(problems)} jobs)"
        for problem, numbers in seen.items()
    ]


def _examine(job: list[str], directory_key: str) -> tuple[list[str], str, bool]:
    """Every problem of one job, and, where there is none, the directory that Hydra gives it and whether the time names it."""
    directory, by_clock = "", False
    parsed, problems = parse(job, multirun=False)
    wrong_options = group_problems(parsed)
    wrong_groups = {override.key_or_group for override in parsed if override.input_line in wrong_options}
    # Which keys a group has depends on its option: below a group whose option is wrong, nothing can be judged.
    sound = [override for override in parsed if override.input_line not in wrong_options
             and override.key_or_group.split(".")[0] not in wrong_groups]
    problems += wrong_options.values()
    words = [override.input_line for override in sound]
    try:
        try:
            config, directory, by_clock = _compose(words, directory_key)
        except HydraException:
            chosen = [override.input_line for override in sound if is_group(override)]
            unknown = key_problems(sound, set(dotted_keys(OmegaConf.to_container(compose("config", chosen)))))
            problems += unknown.values()
            config, directory, by_clock = _compose([word for word in words if word not in unknown], directory_key)
        problems += find_problems(config, without=wrong_groups)
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(_first_line(error))
    return problems, directory, by_clock


def _refuse_unusable(directory: Path, may_stand: bool) -> None:
    if not may_stand and RunDirectory(directory).holds_a_run():
        raise RequestError(f"output_dir: {directory} already holds a run; to go on with it, type quantlab "
                           f"{shlex.quote(f'resume={directory}')}; or type another output_dir")
    standing = directory
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    try:
        with tempfile.TemporaryFile(dir=standing) as probe:
            probe.write(b"quantlab")
    except OSError as error:
        raise RequestError(f"output_dir: cannot write {directory} ({error.strerror}: {standing}); "
                           "type another output_dir") from None


def _first_line(error: Exception) -> str:
    cause = error.__cause__ if not str(error).strip() and error.__cause__ is not None else error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
