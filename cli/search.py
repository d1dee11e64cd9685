"""hydra/sweeper=optuna: trials that Optuna chooses, by ask and tell. Each is a job like any other, in a directory named
by its values, started by the launcher that is chosen; its value is read from its results.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantlab.cli.jobs import removing_empty, sweep
from quantlab.cli.multirun import finish, main_metric, metrics_of
from quantlab.cli.request import Job, Request
from quantlab.cli.resume import NOT_THE_EXPERIMENT
from quantlab.config import config_hash, to_plain
from quantlab.errors import RequestError
from quantlab.report.metrics import METRICS
from quantlab.run.directory import RunDirectory
from quantlab.run.log import say
from quantlab.run.trial import Trial, pruner_of, storage_of

SAME = "quantlab_search"  # of a study: the hash of what is searched


def search(request: Request) -> int:
    """Make the trials that are missing; the sweep's exit code."""
    from optuna.trial import TrialState

    options = request.hydra.hydra.sweeper
    interrupted = None
    direction = _direction(request, options)
    with removing_empty(request.new), _study(request, options, direction) as study:
        distributions = {dimension.key: dimension.distribution() for dimension in request.search.dimensions}
        jobs = {trial.number: request.search.job(trial.params) for trial in study.get_trials(deepcopy=False)}
        while interrupted is None:
            trials = study.get_trials(deepcopy=False)
            # of a search that was killed or interrupted
            batch = [(one.number, one.params) for one in trials if one.state is TrialState.RUNNING][: options.workers]
            for _ in range(min(options.workers - len(batch), options.trials - len(trials))):
                trial = study.ask(distributions)
                batch.append((trial.number, trial.params))
            if not batch:
                break
            for number, params in batch:
                job = request.search.job(params)
                jobs[number] = replace(job, trial=_trial(request, options, number, job, direction))
            # two trials of the same values are one job, and what was pruned is not begun again
            own = {jobs[number].directory: jobs[number] for number, _ in batch}
            own = tuple(job for job in own.values() if RunDirectory(job.directory).state() != "pruned")
            shown = ", ".join(str(number + 1) for number, _ in batch)
            print(f"quantlab: trial {shown} of {options.trials}", file=sys.stderr)
            interrupted = sweep(replace(request, jobs=own, new=(), search=None)) if own else None
            for number, _ in batch:
                _tell(study, number, jobs[number], options.metric, stopped=interrupted is not None)
        return _end(request, study, jobs, interrupted)


def _tell(study: Any, number: int, job: Job, metric: str | None, stopped: bool) -> None:
    from optuna.trial import TrialState

    value = value_of(job, metric)
    if value is not None:
        study.tell(number, value)
    elif RunDirectory(job.directory).state() == "pruned":
        study.tell(number, state=TrialState.PRUNED)
    elif not stopped or RunDirectory(job.directory).is_completed():
        if metric is not None and (there := metrics_of(job.directory)):
            names = [*there]
            say(
                f"quantlab: trial {number + 1}: has no metric {metric}, but {', '.join(names)}; type "
                f"hydra.sweeper.metric={names[0]}"
            )
        study.tell(number, state=TrialState.FAIL)


def value_of(job: Job, metric: str | None) -> float | None:
    """What is optimized, of a completed job; None where it has none."""
    if not RunDirectory(job.directory).is_completed():
        return None
    if metric is None:
        found = main_metric(job)
        return None if found is None else found[1]
    value = metrics_of(job.directory).get(metric)
    return float(value) if isinstance(value, (int, float)) else None


def _end(request: Request, study: Any, jobs: dict[int, Job], interrupted: int | None) -> int:
    distinct = {job.directory: job for job in jobs.values()}
    code = finish(replace(request, jobs=tuple(distinct.values())), interrupted)
    if any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        best = study.best_trial
        print(f"best: {best.value:.4g} by {' '.join(jobs[best.number].swept)}, {jobs[best.number].directory}")
    return code


@contextmanager
def _study(request: Request, options: Any, direction: str) -> Iterator[Any]:
    """Of this search, new or gone on with. Raises RequestError where the storage holds another, or is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    job = _first(request)
    if options.pruner != "none":
        pruner_of(options.pruner, options.pruner_options or {})
        _require_validation(job)
    request.directory.mkdir(parents=True, exist_ok=True)
    experiment = config_hash(job.config, without=NOT_THE_EXPERIMENT)
    searched = config_hash([experiment, [str(one) for one in request.search.dimensions], direction, options.metric])
    try:
        study = optuna.create_study(
            storage=storage_of(_storage(request, options)),
            study_name=options.study,
            direction=direction,
            load_if_exists=True,
        )
        made = len(study.get_trials(deepcopy=False))
        study.sampler = _sampler(options.sampler, options.seed + made)
        if study.user_attrs.setdefault(SAME, searched) != searched:
            raise RequestError(
                f"hydra.sweeper.study: {options.study} of this storage searches something else; type another "
                "hydra.sweeper.study, or another output_dir"
            )
        study.set_user_attr(SAME, searched)
    except RequestError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise RequestError(
            f"hydra.sweeper.storage: cannot use {options.storage or 'optuna.journal'} ({said}); type "
            "hydra.sweeper.storage=sqlite:///FILE.db, or null for a journal in output_dir"
        ) from None
    yield study


def _storage(request: Request, options: Any) -> str:
    """A database's URL, or the file of a journal, absolute."""
    said = options.storage or "optuna.journal"
    return said if "://" in said else str(Path(said).absolute() if options.storage else request.directory / said)


def _sampler(name: str, seed: int) -> Any:
    from optuna import samplers

    kinds = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "qmc": samplers.QMCSampler,
        "gp": samplers.GPSampler,
    }
    return kinds[name](seed=seed)


def _trial(request: Request, options: Any, number: int, job: Job, direction: str) -> Trial | None:
    """As the job is to know it; None where nothing is pruned."""
    if options.pruner == "none":
        return None
    # what is optimized, or what of the same direction is validated in its place
    named = [name for name in _metrics(job, options.metric) if options.metric or _better(name) == direction]
    pruner = (options.pruner, to_plain(options.pruner_options or {}), tuple(named))
    return Trial(str(job.directory), _storage(request, options), options.study, number, *pruner)


def _require_validation(job: Job) -> None:
    """Raises RequestError where the job's method validates nothing while it runs."""
    from quantlab.config import implementation
    from quantlab.methods.base import Method

    if getattr(implementation(job.config.method), "validate", Method.validate) is Method.validate:
        raise RequestError(
            f"hydra.sweeper.pruner: method={job.config.method.name} validates nothing while it runs, by which a trial "
            "could be pruned; type hydra.sweeper.pruner=none"
        )


def _first(request: Request) -> Job:
    return request.search.job({dimension.key: dimension.first for dimension in request.search.dimensions})


def _metrics(job: Job, metric: str | None) -> list[str]:
    return [metric] if metric else [*job.config.method.main_metrics, *job.config.task.main_metrics, "loss"]


def _direction(request: Request, options: Any) -> str:
    """As said, or the one in which the metric gets better. Raises RequestError where neither is known."""
    if options.direction:
        return options.direction
    names = _metrics(_first(request), options.metric)
    known = [better for name in names if (better := _better(name))]
    if not known:
        raise RequestError(
            f"hydra.sweeper.direction: whether {names[0]} is better high or low is not known, allowed: minimize, "
            "maximize; type hydra.sweeper.direction=minimize"
        )
    return known[0]


def _better(metric: str) -> str | None:
    """The direction in which a metric gets better, where that is known."""
    return None if metric not in METRICS else "maximize" if METRICS[metric].better == "↑" else "minimize"
