"""A typed request, checked as a whole before anything starts: every job of it composed and validated, no torch.

Hydra stops at the first thing that is wrong, late and at length; here all of it is found, each a line with a remedy.
"""

import argparse
import hashlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quantlab.cli.arguments import flags
from quantlab.cli.folders import hydra_context
from quantlab.cli.overrides import as_value, dotted_keys, group_problems, is_group, key_problems, parse
from quantlab.config import find_problems, with_finished_run
from quantlab.config.catalog import folders, groups, hidden
from quantlab.errors import RequestError
from quantlab.run.atomic_files import claim_directory
from quantlab.run.directory import RunDirectory

MAX_NAME = 150


@dataclass(frozen=True)
class Request:
    """`words`: what Hydra gets; `swept`: per job, the overrides that set it apart; `directory`: absolute, of all;
    `new`: it and those above it that were not there before, innermost first; `configs`: per job, resolved; `source`:
    the words that say where the
    configs were found; `directories`: per job of a sweep, absolute."""

    words: tuple[str, ...]
    multirun: bool
    swept: tuple[tuple[str, ...], ...]
    directory: Path
    new: tuple[Path, ...] = ()
    configs: tuple[dict[str, Any], ...] = ()
    source: tuple[str, ...] = ()
    directories: tuple[Path, ...] = ()

    @property
    def again(self) -> list[str]:
        """The words that go on with this request, in the same directory."""
        typed = [word for word in self.words if not word.startswith(("hydra.", "output_dir=")) or word in self.source]
        return [*typed, f"output_dir={as_value(str(self.directory))}"]


@dataclass(frozen=True)
class Job:
    """One job of a request: what is wrong with it and, where nothing is, its resolved config and directory. `by_clock`:
    whether the
    directory is `output_dir` and named by the time, as by default: then a name beside it will do as well."""

    problems: list[str]
    config: dict[str, Any]
    directory: str = ""
    by_clock: bool = False
    name: str = ""  # of its directory below that of its sweep


def job_directory_name(override_dirname: str) -> str:
    """A sweep job's directory, from its swept overrides: one path component of at most 150 bytes, unique to them."""
    name = override_dirname.replace("/", "_")
    if len(name.encode()) > MAX_NAME or name != override_dirname:
        # Cutting, or "_" for "/", could make two jobs meet in one directory.
        digest = hashlib.sha256(override_dirname.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_NAME - len(digest) - 1].decode(errors="ignore") + "-" + digest
    return name if name not in ("", ".", "..") else "job"


def check_request(arguments: argparse.Namespace) -> Request:
    """What is to be done, if all of it is sound. Raises `RequestError` with every problem, each said once."""
    follower = os.environ.get("RANK", "0") != "0"
    root = arguments.config_name
    with hydra_context(arguments.config_dir):
        multirun, overrides = _with_own_sweep(root, arguments.overrides, arguments.multirun)
        if multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RequestError("-m: a sweep cannot run under torchrun; start torchrun once for each job, without -m")
        parsed, problems = parse(overrides, multirun)
        jobs = _expand(parsed)
        swept = [[word for word in job if _key(word) in _swept_keys(parsed)] for job in jobs]
        key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
        naming = _naming(parsed) if multirun else []
        read = {override.key_or_group for override in parsed}
        unread = {_key(word).lstrip("+") for word in overrides} & set(groups()) - read
        examined = [_examine(root, job, key, unread, naming) for job in jobs]
    problems += said_once([job.problems for job in examined], swept)
    if problems:
        raise RequestError(*problems)
    directory, by_clock, new = Path(examined[0].directory).expanduser().absolute(), examined[0].by_clock, ()
    if not follower:
        _refuse_unusable(directory, multirun or by_clock)
        new = tuple(folder for folder in (directory, *directory.parents) if not folder.exists())
        if by_clock:
            directory = claim_directory(directory)
            new = (directory, *new[1:])
    typed = [override.input_line for override in parsed]
    source = [*flags(arguments), *(word for word in typed if word.startswith("hydra.searchpath="))]
    # The directory is settled here, once: a clock that ticks between this check and the run must not move it. Only
    # the first process of torchrun makes it.
    words = [*flags(arguments), *typed, f"{key}={'.' if follower else as_value(str(directory))}"]
    directories = tuple(directory / job.name for job in examined) if multirun else ()
    return Request(
        ("-m", *words, *naming) if multirun else tuple(words),
        multirun,
        tuple(map(tuple, swept)),
        directory,
        new,
        tuple(job.config for job in examined),
        tuple(source),
        directories,
    )


def _naming(parsed: list[Override]) -> list[str]:
    """The words by which the jobs of a sweep are named after what is swept, and nothing else."""
    varied = {override.key_or_group for override in parsed if override.is_sweep_override()}
    fixed = {override.key_or_group for override in parsed} - varied
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(as_value, sorted(fixed)))}]"]


def _with_own_sweep(root: str, overrides: list[str], multirun: bool) -> tuple[bool, list[str]]:
    """Whether it is a sweep, and all overrides: those typed, after those that a YAML of the user's sweeps over.

    There it is `hydra.mode=MULTIRUN` that asks for a sweep, and `hydra.sweeper.params` that says over what.
    """
    if not multirun and len(folders()) == 1:
        return False, overrides
    fixed = [override.input_line for override in parse(overrides, multirun=False)[0]]
    try:
        hydra = compose(root, fixed, return_hydra_config=True).hydra
        multirun = multirun or OmegaConf.select(hydra, "mode") is RunMode.MULTIRUN
        params = (
            OmegaConf.to_container(hydra.sweeper.params, resolve=True)
            if "params" in hydra.sweeper and hydra.sweeper.params
            else {}
        )
    except (HydraException, OmegaConfBaseException, yaml.YAMLError):
        return multirun, overrides  # said when the jobs are composed
    own = [f"{key}={value}" for key, value in params.items()] if multirun else []
    return multirun, [*own, *overrides]


def _compose(root: str, overrides: list[str], directory_key: str, naming: list[str]) -> Job:
    """One job as Hydra composes it; its directory stands under `directory_key`. naming: as `_naming`, of a sweep."""
    OmegaConf.register_new_resolver("quantlab_job_directory", job_directory_name, replace=True)
    config = compose(root, [*overrides, *naming], return_hydra_config=True)
    directory, name = (
        OmegaConf.select(config, directory_key),
        OmegaConf.select(config, "hydra.sweep.subdir") if naming else "",
    )
    problems = list(_own_problems(root, config.hydra))
    with open_dict(config):
        del config["hydra"]
    by_clock = "${now:" in str(OmegaConf.to_container(config).get("output_dir")) and directory == config.output_dir
    return Job(problems, OmegaConf.to_container(config, resolve=True), directory, by_clock, name)


def _own_problems(root: str, hydra: DictConfig) -> Iterator[str]:
    """What is wrong with YAML of the user's although Hydra composes it."""
    if hydra.output_subdir == ".hydra" and "quantlab_job_directory" not in str(OmegaConf.to_container(hydra.sweep)):
        yield f"--config-name: {root}.yaml does not build on quantlab's own config; begin its defaults with '- config'"
    for group, option in {"": root, **hydra.runtime.choices}.items():
        name = f"{group}/{option}".lstrip("/")
        for file in hidden(name):
            yield f"{file}: never read, since quantlab has its own {name}, which comes first; give yours another name"


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


def said_once(problems: list[list[str]], swept: list[list[str]]) -> list[str]:
    """Every problem of every job once, with the first job that has it where not all do."""
    seen: dict[str, list[int]] = {}
    for number, found in enumerate(problems):
        for problem in found:
            seen.setdefault(problem, []).append(number)
    return [
        (
            problem
            if len(numbers) == len(problems)
            else f"{problem} (job {' '.join(swept[numbers[0]])}; {len(numbers)} of {len(problems)} jobs)"
        )
        for problem, numbers in seen.items()
    ]


def _examine(root: str, job: list[str], directory_key: str, unread: set[str], naming: list[str]) -> Job:
    """One job, with every problem that it has. `unread`: groups of which an option was chosen that could not be read;
    naming: as
    `_compose`."""
    parsed, problems = parse(job, multirun=False)
    wrong_options = group_problems(parsed)
    wrong_groups = unread | {override.key_or_group for override in parsed if override.input_line in wrong_options}
    # Which keys a group has depends on its option: below a group whose option is wrong, nothing can be judged.
    sound = [
        override
        for override in parsed
        if override.input_line not in wrong_options and override.key_or_group.split(".")[0] not in wrong_groups
    ]
    problems += wrong_options.values()
    words = [override.input_line for override in sound]
    try:
        try:
            composed = _compose(root, words, directory_key, naming)
        except HydraException:
            chosen = [
                override.input_line
                for override in sound
                if is_group(override) or override.key_or_group == "hydra.searchpath"
            ]
            unknown = key_problems(sound, set(dotted_keys(OmegaConf.to_container(compose(root, chosen)))))
            problems += unknown.values()
            composed = _compose(root, [word for word in words if word not in unknown], directory_key, naming)
        config = composed.config if wrong_groups else with_finished_run(composed.config, job)
        problems += composed.problems + find_problems(config, without=wrong_groups)
        return replace(composed, config=config, problems=problems)
    except RequestError as error:
        problems += error.problems
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(_first_line(error))
    except yaml.YAMLError as error:
        problems.append(f"not readable as YAML: {' '.join(str(error).split())}; mend the file")
    return Job(problems, {})


def _refuse_unusable(directory: Path, may_stand: bool) -> None:
    if not may_stand and RunDirectory(directory).holds_a_run():
        raise RequestError(
            f"output_dir: {directory} already holds a run; to go on with it, type quantlab "
            f"{shlex.quote(f'resume={directory}')}; or type another output_dir"
        )
    standing = directory
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    try:
        with tempfile.TemporaryFile(dir=standing) as probe:
            probe.write(b"quantlab")
    except OSError as error:
        raise RequestError(
            f"output_dir: cannot write {directory} ({error.strerror}: {standing}); type another output_dir"
        ) from None


def _first_line(error: Exception) -> str:
    cause = error.__cause__ if not str(error).strip() and error.__cause__ is not None else error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
