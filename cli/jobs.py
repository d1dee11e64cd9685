"""From a checked request to runs: Hydra makes each job's directory and starts it, the runner does the work.

No exception of a run reaches Hydra, which would print it its own way and end a sweep: it becomes the job's outcome. The
jobs of a sweep may run in other processes, or on other machines, as Hydra's launcher says: how they ended is read from
their directories. Jobs are started from the configs that were checked; Hydra composes none of them again.
"""

import argparse
import contextlib
import copy
import functools
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from quantlab.cli.arguments import flags, question
from quantlab.cli.callbacks import Callbacks
from quantlab.cli.job import UNREADABLE
from quantlab.cli.launchers import launcher_of
from quantlab.cli.multirun import main_metric
from quantlab.cli.outcome import Outcome, outcome_of
from quantlab.cli.request import Job, Request, check_request, refuse_foreign_nodes, said_once
from quantlab.cli.resume import run_or_go_on, taken_by_another
from quantlab.config import to_plain
from quantlab.errors import Interrupted, RequestError
from quantlab.run.directory import RunDirectory
from quantlab.run.signals import check
from quantlab.run.trial import carried_out

INTERRUPTED = (130, 143)


def run_alone(request: Request) -> Outcome:
    """Run the one job of the request."""
    outcomes: list[Outcome] = []

    def task(_: DictConfig) -> None:
        outcomes.append(_one_job(request.jobs[0], request.source, alone=True))

    with removing_empty(request.new):
        callbacks = Callbacks(request.hydra)
        callbacks.on_run_start(config=request.hydra, config_name=request.hydra.hydra.job.config_name)
        done = run_job(
            task_function=task,
            config=request.hydra,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(config_loader=Composed(request), callbacks=callbacks),
        )
        callbacks.on_run_end(config=request.hydra, config_name=request.hydra.hydra.job.config_name, job_return=done)
        _ = done.return_value  # raises what `task` raised
    return outcomes[0]


def sweep(request: Request) -> int | None:
    """Run every job of the request, as Hydra's launcher does it; the exit code of the signal that interrupted them,
    if one did.
    """
    with removing_empty(request.new):
        _refuse_wrong_names(request)
        config, name = request.hydra, request.hydra.hydra.job.config_name
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name=name)
        launcher = launcher_of(
            HydraContext(config_loader=Composed(request), callbacks=callbacks),
            functools.partial(_job_of_sweep, jobs=request.jobs, source=request.source),
            config,
        )
        request.directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, request.directory / "multirun.yaml")  # as Hydra's own sweeper does
        try:
            done = launcher.launch([list(job.typed) for job in request.jobs], initial_job_idx=0)
        except SystemExit as stop:
            if stop.code in INTERRUPTED:
                return stop.code
            raise RuntimeError(f"Hydra stopped with exit code {stop.code}; see above") from stop
        except BaseException as error:  # libraries make others of a signal
            if not (outcome := outcome_of(error)).interrupted:
                raise
            return outcome.exit_code
        callbacks.on_multirun_end(config=config, config_name=name)
        for job in done:
            _ = job.return_value  # raises what the job raised
    return None


class Composed:
    """In place of Hydra's loader of configs: gives its launchers the jobs that `check_request` has composed."""

    def __init__(self, request: Request):
        self.request = request

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of the job of those words, with the `hydra` section of all."""
        return _config_of(self.request.job(tuple(sweep_overrides)), master_config)


def _config_of(job: Job, master_config: DictConfig) -> DictConfig:
    config = copy.deepcopy(master_config)
    with read_write(config), open_dict(config):
        config.update(to_plain(job.config))
        config.hydra.sweep.subdir = job.directory.name
        config.hydra.job.override_dirname = ",".join(job.swept)
        config.hydra.overrides.task = list(job.typed)
    return config


def job_in_process(job: Job, number: int, of: int, source: Sequence[str], master_config: DictConfig) -> int:
    """A job of a sweep of ours in a process of its own, as Hydra starts jobs; its exit code."""
    outcomes: list[Outcome] = []
    print(f"quantlab: job {number + 1} of {of}: {' '.join(job.swept)}", file=sys.stderr)
    setup_globals()
    config = _config_of(job, master_config)
    with open_dict(config):
        config.hydra.job.num, config.hydra.job.id = number, f"{config.hydra.job.name}_{number}"
    done = run_job(
        task_function=lambda _: outcomes.append(_one_job(job, source, alone=False)),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=HydraContext(config_loader=None, callbacks=Callbacks(config)),
    )
    _ = done.return_value
    return outcomes[0].exit_code


def _job_of_sweep(_: DictConfig, jobs: Sequence[Job], source: Sequence[str]) -> float | None:
    """Perhaps in another process: what it leaves is its directory, and what it says on stderr. Returns the main metric:
    what a sweeper of Hydra's would optimize.
    """
    check()  # a signal that a library caught still ends the sweep
    number, directory = HydraConfig.get().job.num, Path(HydraConfig.get().runtime.output_dir)
    job = jobs[number]
    print(f"quantlab: job {number + 1} of {len(jobs)}: {' '.join(job.swept)}", file=sys.stderr)
    if directory != job.directory:
        raise RuntimeError(f"job {number + 1} was to run in {job.directory}, not in {directory}")
    outcome = _one_job(job, source, alone=False)
    if outcome.interrupted:
        # Not an Exception: it passes through Hydra, and the jobs that have not begun never will.
        raise SystemExit(outcome.exit_code)
    found = main_metric(job) if outcome.exit_code == 0 else None
    return None if found is None else found[1]


def _one_job(job: Job, source: Sequence[str], alone: bool) -> Outcome:
    directory = job.directory
    try:
        with carried_out(job.trial):
            run_or_go_on(job.config, [*source, *job.typed], may_stand=not alone)
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        run = RunDirectory(directory)
        resumable = alone and run.holds_a_run() and run.state() != "completed"
        return outcome_of(error, directory, resumable=resumable).tell()
    finally:
        if not alone:
            _remove_empty([directory])
    return Outcome(directory=directory)


def _refuse_wrong_names(request: Request) -> None:
    """What only torch and the files can say of a job (an architecture, weights, data) is asked for every job before the
    first one, and whether its directory is free.
    """
    from quantlab.runner import problems_of

    taken = [taken_by_another(job.config, job.directory) for job in request.jobs]
    problems = problems_of([job.config for job in request.jobs])
    found = [[*others, *own] for others, own in zip(taken, problems, strict=True)]
    if said := said_once(found, [job.swept for job in request.jobs]):
        raise RequestError(*said)


@contextlib.contextmanager
def removing_empty(directories: Iterable[Path]) -> Iterator[None]:
    try:
        yield
    finally:
        _remove_empty(directories)


def _remove_empty(directories: Iterable[Path]) -> None:
    """Of `directories`, each inside the next, remove those made for a run that never began: a wrong request leaves
    nothing.
    """
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def let_hydra_answer(arguments: argparse.Namespace) -> int:
    """Hydra's own questions: `--cfg job`, `--info`, `--hydra-help`, `--shell-completion`. Runs nothing.

    Raises `RequestError` where what was typed cannot be composed.
    """
    if arguments.multirun:
        raise RequestError("-m: a question is answered for one job; drop -m, and type one value for each key")
    printed, complained = io.StringIO(), io.StringIO()
    asked, code = question(arguments), 0
    # Hydra's help configures logging, and is the same whatever was typed
    words = [] if "--hydra-help" in asked else arguments.overrides
    refuse_foreign_nodes(arguments.config_name, arguments.config_dir, words)
    try:
        with redirect_stdout(printed), redirect_stderr(complained):
            _under_hydra([*asked, *flags(arguments), *words])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except UNREADABLE:
        check()
        code = 1
    if code:
        check_request(arguments)  # says it in a line
        raise RequestError(" ".join(complained.getvalue().split()) or f"Hydra stopped with exit code {code}")
    print(complained.getvalue(), end="", file=sys.stderr)
    print(printed.getvalue(), end="")
    return code


def _under_hydra(words: list[str]) -> None:
    entry = hydra.main(version_base="1.3", config_path="pkg://quantlab.conf", config_name="config")(lambda config: None)
    typed = sys.argv
    sys.argv = ["quantlab", *words]
    try:
        entry()
    finally:
        sys.argv = typed
