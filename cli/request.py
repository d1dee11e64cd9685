"""A request, checked as a whole before anything starts: all jobs are composed and validated, without torch.

Hydra stops late and verbosely at the first problem; here all problems are found, one line each, with a remedy.
"""

import argparse
import copy
import functools
import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from quantlab.cli.arguments import flags
from quantlab.cli.compositions import Compositions
from quantlab.cli.hydra_context import hydra_context
from quantlab.cli.hydra_nodes import foreign_nodes
from quantlab.cli.job import Examined, examine
from quantlab.cli.overrides import as_value, parse
from quantlab.cli.search_space import Dimension, dimension_of
from quantlab.cli.sweep import SEARCHING, corners, expand, fixed_words, naming_words, sweep_problems, with_own_sweep
from quantlab.config import RunConfig
from quantlab.config.catalog import groups
from quantlab.errors import RequestError
from quantlab.run.atomic_files import claim_directory
from quantlab.run.directory import RunDirectory
from quantlab.run.trial import Trial


@dataclass(frozen=True)
class Job:
    """One job of a request, composed and validated. `typed`: the overrides that it was composed of, Hydra's own left
    out; `swept`: those that set it apart; `directory`: absolute; `trial`: of a search that may prune it.
    """

    config: RunConfig
    directory: Path
    typed: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    trial: Trial | None = None


@dataclass(frozen=True)
class Search:
    """A sweep whose jobs a search chooses. `fixed`: the words of all."""

    compositions: Compositions
    config_dir: str | None
    directory: Path
    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    def job(self, values: Mapping[str, Any]) -> Job:
        """That of these values. Raises RequestError where they make no sense together."""
        swept = [f"{one.key}={one.word(values[one.key])}" for one in self.dimensions]
        with hydra_context(self.config_dir):
            examined = examine(self.compositions, [*self.fixed, *swept], "hydra.sweep.dir", set())
        if examined.problems:
            raise RequestError(*examined.problems)
        return _job(examined, self.directory, swept)


@dataclass(frozen=True)
class Request:
    """`words`: as one types them; `directory`: absolute, of all; `new`: it and those above it that were not there
    before, innermost first; `source`: the words that say where the configs were found; `hydra`: the config, with its
    key `hydra`, from which Hydra starts the jobs; `search`: what chooses jobs in place of `jobs`.
    """

    words: tuple[str, ...]
    multirun: bool
    jobs: tuple[Job, ...]
    directory: Path
    new: tuple[Path, ...] = ()
    source: tuple[str, ...] = ()
    hydra: DictConfig | None = None
    search: Search | None = None

    def job(self, typed: tuple[str, ...]) -> Job:
        """The one that was composed of those words."""
        return self._by_words[typed]

    @functools.cached_property
    def _by_words(self) -> dict[tuple[str, ...], Job]:
        return {job.typed: job for job in self.jobs}

    @property
    def again(self) -> list[str]:
        """The words that resume this request, in the same directory."""
        typed = [word for word in self.words if not word.startswith("output_dir=")]
        return [*typed, f"output_dir={as_value(str(self.directory))}"]


def check_request(arguments: argparse.Namespace) -> Request:
    """What is to be done, if all of it is sound: every job is composed and validated here, once. Raises `RequestError`
    with every problem, each said once.
    """
    root = arguments.config_name
    with hydra_context(arguments.config_dir):
        multirun, overrides = with_own_sweep(root, arguments.overrides, arguments.multirun)
        if multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RequestError("-m: a sweep cannot run under torchrun; start torchrun once for each job, without -m")
        searching = multirun and SEARCHING in overrides
        parsed, problems = parse(overrides, multirun, searching)
        dimensions = [dimension_of(one) for one in parsed if one.is_sweep_override()] if searching else []
        words = corners(parsed, dimensions, problems) if searching else expand(parsed, arguments.yes)
        varied = {override.get_key_element() for override in parsed if override.is_sweep_override()}
        swept = [[word for word in job if _key(word) in varied] for job in words]
        key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
        naming = naming_words(parsed) if multirun else []
        read = {override.key_or_group for override in parsed}
        unread = {_key(word).lstrip("+") for word in overrides} & set(groups()) - read
        compositions = Compositions(root, naming)
        examined = [examine(compositions, job, key, unread) for job in _watched(words)]
    problems += said_once([job.problems for job in examined], swept)
    problems += sweep_problems(parsed, examined, multirun, searching)
    if problems:
        raise RequestError(*problems)
    for cache in dict.fromkeys(one.config.cache_dir for one in examined):
        _refuse_unusable_cache(Path(cache))
    directory, new = _settled(examined[0], multirun)
    typed = [override.input_line for override in parsed]
    return Request(
        words=(*["-m"] * multirun, *["--yes"] * arguments.yes, *flags(arguments), *typed),
        multirun=multirun,
        jobs=() if searching else tuple(_job(one, directory, own) for one, own in zip(examined, swept, strict=True)),
        directory=directory,
        new=new,
        source=(*flags(arguments), *(word for word in typed if word.startswith("hydra.searchpath="))),
        hydra=_started_in(examined[0].hydra, directory, typed, RunMode.MULTIRUN if multirun else RunMode.RUN),
        search=Search(compositions, arguments.config_dir, directory, tuple(fixed_words(parsed)), tuple(dimensions))
        if searching
        else None,
    )


def refuse_foreign_nodes(root: str, config_dir: str | None, words: list[str]) -> None:
    """Raises `RequestError` where Hydra, which is to answer a question, would build what is not on the allowlist."""
    with hydra_context(config_dir):
        try:
            problems = list(foreign_nodes(compose(root, words, return_hydra_config=True)))
        except (HydraException, OmegaConfBaseException):
            return  # Hydra cannot compose it either
    if problems:
        raise RequestError(*problems)


def _settled(job: Examined, multirun: bool) -> tuple[Path, tuple[Path, ...]]:
    """The directory of a request, and the folders that it needs; where the clock names it, it is made, since a clock
    that ticks between this check and the run must not move it. Only the first process of torchrun makes any.
    """
    if os.environ.get("RANK", "0") != "0":
        return Path.cwd(), ()
    directory = Path(job.directory).expanduser().absolute()
    _refuse_unusable(directory, multirun or job.by_clock)
    new = tuple(folder for folder in (directory, *directory.parents) if not folder.exists())
    if job.by_clock:
        directory = claim_directory(directory)
        new = (directory, *new[1:])
    return directory, new


def _job(examined: Examined, directory: Path, swept: list[str]) -> Job:
    own = directory / examined.name
    return Job(examined.config.model_copy(update={"output_dir": str(own)}), own, examined.typed, tuple(swept))


def _started_in(config: DictConfig, directory: Path, typed: list[str], mode: RunMode) -> DictConfig:
    """The first job's config, from which Hydra starts all: with their directory, and all that was typed."""
    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        config.hydra.run.dir = config.hydra.sweep.dir = str(directory)
        config.hydra.overrides.task, config.hydra.mode = typed, mode
    return config


def _watched(jobs: Sequence[list[str]]) -> Iterable[list[str]]:
    """With a bar, where there are many."""
    if len(jobs) == 1:
        return jobs
    from quantlab.progress import Bar  # one job does without tqdm

    return Bar(jobs, "checking", "job", delay=5, leave=False)


def _key(word: str) -> str:
    return word.split("=", 1)[0]


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


def _refuse_unusable(directory: Path, may_stand: bool) -> None:
    if not may_stand and RunDirectory(directory).holds_a_run():
        raise RequestError(
            f"output_dir: {directory} already holds a run; to go on with it, type quantlab "
            f"{shlex.quote(f'resume={directory}')}; or type another output_dir"
        )
    _require_writable(directory, "output_dir")


def _refuse_unusable_cache(directory: Path) -> None:
    """One that is there may be read-only: it may hold all that is needed."""
    if not directory.is_dir():
        _require_writable(directory, "cache_dir")
    elif not os.access(directory, os.R_OK | os.X_OK):
        raise RequestError(f"cache_dir: cannot read {directory} (permission denied); type another cache_dir")


def _require_writable(directory: Path, key: str) -> None:
    standing = directory
    while not os.path.lexists(standing) and standing != standing.parent:
        standing = standing.parent
    try:
        with tempfile.TemporaryFile(dir=standing) as probe:
            probe.write(b"quantlab")
    except OSError as error:
        raise RequestError(
            f"{key}: cannot write {directory} ({error.strerror}: {standing}); type another {key}"
        ) from None
