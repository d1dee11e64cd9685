"""One job of a request, before anything starts: composed as Hydra does it, and everything that is wrong with it, each a
line with a remedy. Hydra itself stops at the first thing that is wrong, late and at length. Imports no torch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantlab.cli.compositions import Compositions
from quantlab.cli.hydra_nodes import foreign_nodes
from quantlab.cli.overrides import dotted_keys, group_problems, is_group, key_problems, parse, word_problem
from quantlab.config import RunConfig, judged, with_finished_run
from quantlab.config.catalog import hidden
from quantlab.errors import RequestError
from quantlab.run.signals import check

MAX_NAME = 150
# what Hydra and OmegaConf raise of words that do not compose
UNREADABLE = (HydraException, OmegaConfBaseException, TypeError, ValueError, KeyError, IndexError)


@dataclass(frozen=True)
class Examined:
    """What a job's words come to: its problems and, where there are none, its config. `directory`: as Hydra names it,
    `name`: of the job's below that of its sweep. `by_clock`: whether the directory is `output_dir` and named by the
    time, as by default: then a name beside it will do as well.
    """

    problems: list[str]
    config: RunConfig | None = None
    typed: tuple[str, ...] = ()
    hydra: DictConfig | None = None
    directory: str = ""
    name: str = ""
    by_clock: bool = False


def examine(compositions: Compositions, job: list[str], directory_key: str, unread: set[str]) -> Examined:
    """One job, with every problem that it has; its directory stands under `directory_key`. `unread`: groups of which an
    option was chosen that could not be read.
    """
    root, naming = compositions.root, compositions.naming
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
    try:
        composed, unknown = _compose(compositions, sound)
        problems += [*unknown, *foreign_nodes(composed), *_own_problems(root, composed.hydra)]
        own = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        mapping = OmegaConf.to_container(own, resolve=True)
        try:
            mapping = mapping if wrong_groups else with_finished_run(mapping, job)
        except RequestError as error:
            problems += error.problems  # of method.run; what else is wrong is said too
        config, found = judged(mapping, without=wrong_groups)
        directory = OmegaConf.select(composed, directory_key)
        if not isinstance(directory, str):
            found.append(f"{directory_key}: got {directory or 'null'}, allowed: a path; type output_dir=DIR")
        return Examined(
            list(dict.fromkeys([*problems, *found])),
            config,
            tuple(override.input_line for override in parsed if not override.is_hydra_override()),
            composed,
            directory,
            OmegaConf.select(composed, "hydra.sweep.subdir") if naming else "",
            by_clock="${now:" in str(OmegaConf.to_container(own).get("output_dir")) and directory == own.output_dir,
        )
    except RequestError as error:
        problems += error.problems
    except UNREADABLE as error:
        check()  # it may stand for a signal
        problems += _guilty(compositions, sound) or [f"{root}: {_first_line(error)}; mend the YAML"]
    return Examined(problems)


def _compose(compositions: Compositions, sound: list[Override]) -> tuple[DictConfig, list[str]]:
    """A job as Hydra composes it, and the problems of the words that name no key, which were left out."""
    OmegaConf.register_new_resolver("quantlab_job_directory", job_directory_name, replace=True)
    try:
        return compositions.compose(sound), []
    except HydraException:
        chosen = [
            override
            for override in sound
            if is_group(override) or override.key_or_group.startswith(("hydra.searchpath", "hydra/"))
        ]
        composed = compositions.compose(chosen)
        unknown = key_problems(sound, set(dotted_keys(OmegaConf.to_container(composed))))
    known = [override for override in sound if override.input_line not in unknown]
    return compositions.compose(known), [*unknown.values()]


def _guilty(compositions: Compositions, sound: list[Override]) -> list[str]:
    """Of words that Hydra cannot compose, or whose ${...} lead nowhere, those that are wrong by themselves."""
    choosing = [one for one in sound if (is_group(one) or "hydra/" in one.key_or_group) and not one.is_delete()]
    base = choosing if _reason(compositions, choosing) is None else []
    suspects = sound if base else choosing or sound
    reasons = {
        one.input_line: _reason(compositions, [*(word for word in base if word is not one), one]) for one in suspects
    }
    return [word_problem(one, reason) for one in suspects if (reason := reasons[one.input_line]) is not None]


def _reason(compositions: Compositions, overrides: list[Override]) -> str | None:
    """Why these words alone do not compose, in Hydra's words; None where they do."""
    try:
        composed = compositions.compose(overrides)
        own = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        for part in (own, composed.hydra.run):
            OmegaConf.to_container(part, resolve=True)
        list(foreign_nodes(composed))
    except UNREADABLE as error:
        return _first_line(error)
    except RequestError:  # which is said as it is
        return None
    return None


def _own_problems(root: str, hydra: DictConfig) -> Iterator[str]:
    """What is wrong with YAML of the user's although Hydra composes it."""
    if hydra.output_subdir == ".hydra" and "quantlab_job_directory" not in str(OmegaConf.to_container(hydra.sweep)):
        yield f"--config-name: {root}.yaml does not build on quantlab's own config; begin its defaults with '- config'"
    for group, option in {"": root, **hydra.runtime.choices}.items():
        name = f"{group}/{option}".lstrip("/")
        for file in hidden(name):
            yield f"{file}: never read, since quantlab has its own {name}, which comes first; give yours another name"


def job_directory_name(override_dirname: str) -> str:
    """A sweep job's directory, from its swept overrides: one path component of at most 150 bytes, unique to them."""
    name = override_dirname.replace("/", "_")
    if len(name.encode()) > MAX_NAME or name != override_dirname:
        # Cutting, or "_" for "/", could make two jobs meet in one directory.
        digest = hashlib.sha256(override_dirname.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_NAME - len(digest) - 1].decode(errors="ignore") + "-" + digest
    return name if name not in ("", ".", "..") else "job"


def _first_line(error: Exception) -> str:
    cause = error.__cause__ if not str(error).strip() and error.__cause__ is not None else error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
