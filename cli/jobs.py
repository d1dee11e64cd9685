"""From a checked request to runs: Hydra composes each job and makes its directory, the runner does the work.

No exception of a run reaches Hydra, which would print it its own way and end a sweep: it becomes the job's outcome. The
jobs of a sweep may run in other processes, or on other machines, as Hydra's launcher says: how they ended is read from
their directories.
"""

import argparse
import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from quantlab.cli.arguments import flags, question
from quantlab.cli.folders import MAIN
from quantlab.cli.outcome import Outcome, outcome_of
from quantlab.cli.request import Request, check_request, said_once
from quantlab.cli.resume import run_or_go_on, taken_by_another
from quantlab.config import RunConfig, validate, with_finished_run
from quantlab.errors import Interrupted, RequestError
from quantlab.run.directory import RunDirectory
from quantlab.run.signals import check

INTERRUPTED = (130, 143)


def run_alone(request: Request) -> Outcome:
    """Run the one job of the request."""
    outcomes: list[Outcome] = []
    _launch(lambda config: outcomes.append(_one_job(config, request)), request)
    return outcomes[0]


def sweep(request: Request) -> int | None:
    """Run every job of the request, as Hydra's launcher does it; the exit code of the signal that interrupted them,
    if one did.
    """
    try:
        _refuse_wrong_names(request)
    except BaseException:
        _remove_empty(request.new)
        raise
    try:
        _launch(functools.partial(_job_of_sweep, request=replace(request, configs=())), request)
    except SystemExit as stop:
        return stop.code
    return None


def _job_of_sweep(config: DictConfig, request: Request) -> None:
    """Perhaps in another process: what it leaves is its directory, and what it says on stderr."""
    check()  # a signal that a library caught still ends the sweep
    number = HydraConfig.get().job.num
    print(f"quantlab: job {number + 1} of {len(request.swept)}: {' '.join(request.swept[number])}", file=sys.stderr)
    if Path(HydraConfig.get().runtime.output_dir) != request.directories[number]:
        raise RuntimeError(
            f"job {number + 1} was to run in {request.directories[number]}, not in"
            f" {HydraConfig.get().runtime.output_dir}"
        )
    outcome = _one_job(config, request)
    if outcome.interrupted:
        # Not an Exception: it passes through Hydra, and the jobs that have not begun never will.
        raise SystemExit(outcome.exit_code)


def _launch(job: Callable[[DictConfig], None], request: Request) -> None:
    """Raises SystemExit where a signal ended it, and RuntimeError where Hydra did."""
    try:
        _under_hydra(job, list(request.words))
    except SystemExit as stop:
        if stop.code in INTERRUPTED:
            raise
        raise RuntimeError(f"Hydra stopped with exit code {stop.code}; see above") from stop
    finally:
        _remove_empty(request.new)


def _refuse_wrong_names(request: Request) -> None:
    """What only torch and the files can say of a job (an architecture, weights, data) is asked for every job before the
    first one, and
    whether its directory is free."""
    from quantlab.runner import problems_of

    configs = [validate(config) for config in request.configs]
    taken = [
        taken_by_another(config, directory) for config, directory in zip(configs, request.directories, strict=True)
    ]
    found = [[*others, *problems] for others, problems in zip(taken, problems_of(configs), strict=True)]
    problems = said_once(found, request.swept)
    if problems:
        raise RequestError(*problems)


def let_hydra_answer(arguments: argparse.Namespace) -> int:
    """Hydra's own questions: `--cfg job`, `--info`, `--hydra-help`, `--shell-completion`. Runs nothing.

    Raises `RequestError` where what was typed cannot be composed.
    """
    if arguments.multirun:
        raise RequestError("-m: a question is answered for one job; drop -m, and type one value for each key")
    printed, complained = io.StringIO(), io.StringIO()
    code = 0
    try:
        with redirect_stdout(printed), redirect_stderr(complained):
            _under_hydra(lambda config: None, [*question(arguments), *flags(arguments), *arguments.overrides])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if code:
        check_request(arguments)  # says it in a line
        raise RequestError(" ".join(complained.getvalue().split()) or f"Hydra stopped with exit code {code}")
    print(complained.getvalue(), end="", file=sys.stderr)
    print(printed.getvalue(), end="")
    return code


def _under_hydra(job: Callable[[DictConfig], None], words: list[str]) -> None:
    entry = hydra.main(version_base="1.3", config_path=MAIN, config_name="config")(job)
    typed = sys.argv
    sys.argv = ["quantlab", *words]
    try:
        entry()
    finally:
        sys.argv = typed


def _remove_empty(directories: Iterable[Path]) -> None:
    """Of `directories`, each inside the next, remove those made for a run that never began: a wrong request leaves
    nothing.
    """
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def _one_job(config: DictConfig, request: Request) -> Outcome:
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    try:
        typed = list(hydra_config.overrides.task)
        run_config = _typed(config, directory, typed)
        run_or_go_on(run_config, [*request.source, *typed], may_stand=request.multirun)
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        run = RunDirectory(directory)
        alone = not request.multirun and run.holds_a_run() and run.state() != "completed"
        return outcome_of(error, directory, resumable=alone).tell()
    finally:
        _remove_empty([directory] if request.multirun else [])
    return Outcome(directory=directory)


def _typed(config: DictConfig, directory: Path, typed: list[str]) -> RunConfig:
    return validate(
        with_finished_run({**OmegaConf.to_container(config, resolve=True), "output_dir": str(directory)}, typed)
    )
