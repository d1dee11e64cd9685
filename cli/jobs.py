"""From a checked request to runs: Hydra composes each job and makes its directory, the runner does the work.

No exception of a run reaches Hydra, which would print it its own way and end a sweep: it becomes the job's outcome.
"""

import argparse
import contextlib
import hashlib
import io
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from quantlab.cli.arguments import flags, question
from quantlab.cli.folders import MAIN
from quantlab.cli.outcome import Outcome, outcome_of
from quantlab.cli.request import Request, check_request, said_once
from quantlab.cli.resume import run_or_go_on
from quantlab.config import RunConfig, validate, with_finished_run
from quantlab.errors import Interrupted, RequestError
from quantlab.run_directory import RunDirectory
from quantlab.signals import check

MAX_NAME = 150


def start(request: Request) -> list[Outcome]:
    """Run every job of the request, one after the other; how each ended, in order, up to one that was interrupted."""
    outcomes: list[Outcome] = []

    def job(config: DictConfig) -> None:
        check()     # a signal that a library caught still ends the sweep
        if request.multirun:
            words = " ".join(request.swept[len(outcomes)])
            print(f"quantlab: job {len(outcomes) + 1} of {len(request.swept)}: {words}", file=sys.stderr)
        outcome = _one_job(config, request)
        outcomes.append(outcome)
        if outcome.interrupted:
            # Not an Exception: it passes through Hydra, and the jobs that have not begun never will.
            raise SystemExit(outcome.exit_code)

    try:
        if request.multirun:
            _refuse_wrong_names(request)
        _under_hydra(job, list(request.words))
    except SystemExit as stop:
        if not (outcomes and outcomes[-1].interrupted):
            raise RuntimeError(f"Hydra stopped with exit code {stop.code}; see above") from stop
    finally:
        _remove_empty(request.new)
    return outcomes


def _refuse_wrong_names(request: Request) -> None:
    """What only torch and the files can say of a job (an architecture, weights, data) is asked for every job before the first one."""
    from quantlab.runner import problems_of

    found = problems_of([validate(config) for config in request.configs])
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
        check_request(arguments)        # says it in a line
        raise RequestError(" ".join(complained.getvalue().split()) or f"Hydra stopped with exit code {code}")
    print(complained.getvalue(), end="", file=sys.stderr)
    print(printed.getvalue(), end="")
    return code


def job_directory_name(override_dirname: str) -> str:
    """A sweep job's directory, from its swept overrides: one path component of at most 150 bytes, unique to them."""
    name = override_dirname.replace("/", "_")
    if len(name.encode()) > MAX_NAME or name != override_dirname:
        # Cutting, or "_" for "/", could make two jobs meet in one directory.
        digest = hashlib.sha256(override_dirname.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_NAME - len(digest) - 1].decode(errors="ignore") + "-" + digest
    return name if name not in ("", ".", "..") else "job"


def _under_hydra(job: Callable[[DictConfig], None], words: list[str]) -> None:
    OmegaConf.register_new_resolver("quantlab_job_directory", job_directory_name, replace=True)
    entry = hydra.main(version_base="1.3", config_path=MAIN, config_name="config")(job)
    typed = sys.argv
    sys.argv = ["quantlab", *words]
    try:
        entry()
    finally:
        sys.argv = typed


def _remove_empty(directories: Iterable[Path]) -> None:
    """Of `directories`, each inside the next, remove those made for a run that never began: a wrong request leaves nothing."""
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
    return validate(with_finished_run({**OmegaConf.to_container(config, resolve=True), "output_dir": str(directory)}, typed))
