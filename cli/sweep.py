"""The jobs that a sweep's overrides come to: one for each combination of the values, or those that show what is wrong
with a search; and what is wrong with how they would be started.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

from hydra import compose
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantlab.cli.job import Examined
from quantlab.cli.launchers import launch_problems
from quantlab.cli.overrides import MOST_JOBS, as_value, parse
from quantlab.cli.search_space import Dimension
from quantlab.config.catalog import folders
from quantlab.errors import RequestError

JOBS_WITHOUT_A_WORD = 1_000
SEARCHING = "hydra/sweeper=optuna"


def with_own_sweep(root: str, overrides: list[str], multirun: bool) -> tuple[bool, list[str]]:
    """Whether it is a sweep, and all overrides: those typed, after those that a YAML of the user's sweeps over.

    There it is `hydra.mode=MULTIRUN` that asks for a sweep, and `hydra.sweeper.params` that says over what.
    """
    if len(folders()) == 1 and not any(word.lstrip("+").startswith("hydra.sweeper") for word in overrides):
        return multirun, overrides
    fixed = [override.input_line for override in parse(overrides, multirun=False)[0]]
    try:
        hydra = compose(root, fixed, return_hydra_config=True).hydra
        multirun = multirun or OmegaConf.select(hydra, "mode") is RunMode.MULTIRUN
        params = (
            OmegaConf.to_container(hydra.sweeper.params, resolve=True)
            if OmegaConf.is_dict(hydra.sweeper) and hydra.sweeper.get("params")
            else {}
        )
    except (HydraException, OmegaConfBaseException):
        return multirun, overrides  # said when the jobs are composed
    own = [f"{key}={value}" for key, value in params.items()] if multirun else []
    return multirun, [*own, *overrides]


def expand(parsed: list[Override], yes: bool = False) -> list[list[str]]:
    """The overrides of every job, in the order in which they start: what was typed last varies first.

    Raises `RequestError` for more jobs than anybody wants, or than one wants without the word (`yes`).
    """
    choices = {}
    for override in parsed:
        key, values = override.get_key_element(), [override.input_line]
        if override.is_sweep_override() and not override.is_interval_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
        choices[key] = values
    jobs = math.prod(map(len, choices.values()))
    if jobs > MOST_JOBS or jobs > JOBS_WITHOUT_A_WORD and not yes:
        what = " x ".join(f"{len(values):,} of {key}" for key, values in choices.items() if len(values) > 1)
        most = f"up to {JOBS_WITHOUT_A_WORD:,}, with --yes up to {MOST_JOBS:,}"
        advice = "type fewer values" + (", or --yes too" if jobs <= MOST_JOBS else "")
        raise RequestError(f"-m: got {jobs:,} jobs ({what}), allowed: {most}; {advice}")
    return [list(job) for job in itertools.product(*choices.values())]


def corners(parsed: list[Override], dimensions: list[Dimension], problems: list[str]) -> list[list[str]]:
    """Jobs that show what is wrong with a search: each key at each end or choice, the others at their first."""
    if not dimensions and not problems:
        raise RequestError(
            f"{SEARCHING}: there is nothing to search, allowed: keys with several values; type "
            "'KEY=interval(0.1,0.9)', or KEY=a,b,c"
        )
    first = {one.key: one.corners[0] for one in dimensions}
    points = [first, *({**first, one.key: corner} for one in dimensions for corner in one.corners[1:])]
    return [[*fixed_words(parsed), *(f"{key}={value}" for key, value in point.items())] for point in points]


def fixed_words(parsed: list[Override]) -> list[str]:
    """The words of every job of a search."""
    searched = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    return [override.input_line for override in parsed if override.get_key_element() not in searched]


def naming_words(parsed: list[Override]) -> list[str]:
    """The words by which the jobs of a sweep are named after what is swept, and nothing else."""
    varied = {override.key_or_group for override in parsed if override.is_sweep_override()}
    fixed = {override.key_or_group for override in parsed} - varied
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(as_value, sorted(fixed)))}]"]


def sweep_problems(parsed: list[Override], examined: list[Examined], multirun: bool, searching: bool) -> Iterator[str]:
    """What is wrong with how the jobs are started, and with two that would be one."""
    if not multirun:
        for override in parsed:
            if override.key_or_group.startswith(
                ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper.")
            ):
                yield f"{override.input_line}: is of sweeps only; type quantlab -m, or drop it"
        return
    composed = [job.hydra for job in examined if job.hydra is not None]
    if composed:
        yield from launch_problems(composed[0])
        sweeper = composed[0].hydra.runtime.choices["hydra/sweeper"]
        if not searching and sweeper != "basic":
            yield f"hydra/sweeper: got {sweeper}, allowed: basic, optuna; type {SEARCHING}, on the command line"
    launchers = {
        OmegaConf.to_yaml(one.hydra.launcher): one for one in composed if OmegaConf.is_dict(one.hydra.launcher)
    }
    if len(launchers) > 1:
        names = sorted({one.hydra.runtime.choices["hydra/launcher"] for one in launchers.values()})
        yield f"hydra/launcher: the jobs name different ones ({', '.join(names)}); type hydra/launcher={names[0]}"
    for override in parsed:
        if override.is_sweep_override() and not override.is_interval_sweep():
            values = list(override.sweep_string_iterator())
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                key = override.get_key_element()
                once = ",".join(dict.fromkeys(values))
                yield f"{key}: got {twice[0]} twice, allowed: each value once; type {key}={once}"
