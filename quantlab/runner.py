"""One run: build its four parts, run the method, write its results."""

import contextlib
import logging
import traceback
from collections.abc import Sequence
from functools import partial
from types import NoneType
from typing import Any

from accelerate.utils import broadcast_object_list

from quantlab.config import RunConfig, config_hash, implementation, instantiate, to_plain
from quantlab.config.effects import without_effect
from quantlab.devices import init_trackers, make_accelerator
from quantlab.errors import Interrupted, Pruned, QuantlabError, RequestError
from quantlab.full_precision import feature_network, full_precision_at_hand, provide_full_precision, trained_model
from quantlab.methods.base import Outcome, RunContext, Verb
from quantlab.methods.evaluation_networks import refuse_unfit_metrics, say_of_absent
from quantlab.methods.generation_evaluator import require_feature_network
from quantlab.methods.single_image import refuse_single_images
from quantlab.models.given import say_of_weights
from quantlab.models.model_file import describe_model, save_model_file
from quantlab.progress import Stopwatch, interruptible_bar
from quantlab.report import figures, page
from quantlab.results import require_finite_metrics, results_of
from quantlab.run.cache import Cache
from quantlab.run.checkpoints import Checkpoints
from quantlab.run.directory import RunDirectory
from quantlab.run.signals import as_interrupted, check, deferred, interruptible
from quantlab.trainer import Trainer

logger = logging.getLogger("quantlab")

# keys under which no file and no architecture is named
NOT_A_NAME = ("seed", "output_dir", "resume", "trainer", "logger")


def run(config: RunConfig, typed: list[str]) -> None:
    """Carry out one run, new or resumed (`config.resume`), and leave its directory as the contract says.

    typed: the overrides as the user typed them. Raises the QuantlabError family, after status.json says so.
    """
    watch = Stopwatch()
    with interruptible():
        context, method = prepare(config, watch=watch)
        context.directory = open_directory(context, config, typed)
        main = context.accelerator.is_main_process
        with (
            contextlib.closing(context.directory),
            context.directory.log.attached() if main else contextlib.nullcontext(),
        ):
            for line in without_effect(config.effects, to_plain(config), typed) if main else ():
                logger.warning(line)
            try:
                say_of_weights(context.model)
                say_of_absent(config)
                init_trackers(context.accelerator, config)
                steps = method.work()
                outcome = method.finish()
                require_finite_metrics(outcome, steps)
                if main:
                    conclude(context, outcome, steps, watch.seconds)
                check()  # a signal that a library caught has still ended the run
            except BaseException as error:
                error = as_interrupted(error)
                # a second signal waits until the first is recorded
                with contextlib.suppress(Interrupted), deferred():
                    if main:
                        record_failure(context.directory, error)
                raise error
            finally:
                context.accelerator.end_training()


def problems_of(configs: Sequence[RunConfig]) -> list[list[str]]:
    """For each job of a sweep the problems that `prepare` finds, before the first job starts."""
    found: dict[str, list[str]] = {}
    tasks: dict[str, Any] = {}
    keys = [config_hash(config, without=NOT_A_NAME) for config in configs]
    for key, config in zip(keys, configs, strict=True):
        if key in found:
            continue
        found[key] = []
        try:
            with interruptible():
                prepare(config, tasks)
        except RequestError as error:
            found[key] = list(error.problems)
        except Interrupted:
            raise
        except Exception as error:  # not the request's fault: reported by that job, without stopping the others
            logger.debug("%s", error)
    return [found[key] for key in keys]


def prepare(
    config: RunConfig, tasks: dict[str, Any] | None = None, watch: Stopwatch | None = None
) -> tuple[RunContext, Verb]:
    """Task, model, method and services of a run. Everything that can be wrong with the request is found here, before
    any work.

    tasks: checked tasks by the hash of their section, for several jobs to share; the task of this one is added.
    watch: of the run's time.
    """
    kind = implementation(config.method)
    accelerator = make_accelerator(config)
    key, checked = config_hash(config.task), {} if tasks is None else tasks
    task = checked[key] if key in checked else instantiate(config.task)
    if config.trainer.num_workers is not None:
        task.workers = config.trainer.num_workers
    # Files of weights are read in moments, images are decoded in up to a minute: these come last
    kind.check_files(config.method, config)
    require_feature_network(config, task)
    model = kind.open_model(config, task)
    refuse_unfit_metrics(config, model)
    if key not in checked:
        task.check()
        checked[key] = task
    context = RunContext(
        config=config,
        task=task,
        model=model.to(accelerator.device),
        accelerator=accelerator,
        cache=Cache(config.cache_dir),
        directory=RunDirectory(config.output_dir),
        progress=partial(interruptible_bar, shown=accelerator.is_local_main_process),
        feature_network=lambda: feature_network(context),
        trained=lambda section: trained_model(context, section),
        full_precision_at_hand=lambda: full_precision_at_hand(context),
        provide_full_precision=lambda: provide_full_precision(context),
        fit=lambda trained: Trainer(config.trainer, context.directory, accelerator, config.seed, watch).fit(
            trained, config.method.name
        ),
    )
    method = instantiate(config.method, context=context)
    refuse_single_images(context, method)
    return context, method


def open_directory(context: RunContext, config: RunConfig, typed: list[str]) -> RunDirectory:
    """The run's directory, created or reopened; with several processes, the first one's."""
    accelerator = context.accelerator
    (path,) = broadcast_object_list([str(config.output_dir)])
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return RunDirectory(path)
    if config.resume is not None:
        directory = RunDirectory.open(path)
        try:
            Checkpoints.of(directory).require_own()
        except BaseException:
            directory.close()
            raise
        directory.write_status("running")
    else:
        directory = RunDirectory.create(path, to_plain(config) | {"output_dir": path}, typed)
    accelerator.wait_for_everyone()
    return directory


def conclude(context: RunContext, outcome: Outcome, steps: int, seconds: float) -> None:
    """Model, figures, report.md, and last results.json, the state, and the table on stdout."""
    directory, facts = context.directory, outcome.model_facts
    if outcome.network is not None:
        facts = facts | describe_model(context.config, context.task, outcome.network)
    if outcome.model is not None:
        save_model_file(directory.model_path, outcome.model, facts, directory.bound)
    if outcome.best_model is not None:
        facts |= {"weights": f"step {outcome.best['step']}"}
        save_model_file(directory.best_model_path, outcome.best_model, facts, directory.bound)
    results = results_of(context, outcome, steps, seconds)
    rows = directory.metrics.read()
    if len(rows) > 1:
        figures.training_curves(rows, directory.figures / "training.png", outcome.phases)
    page.write_page(directory.path, results)
    check()
    with deferred():  # a run is completed whole or not at all
        directory.write_results(results)
        directory.write_status("completed", exit_code=0)
        directory.drop_evaluation()
        directory.log.print(page.final_table(results))
        directory.log.print(f"report: {directory.report_path}")


def record_failure(directory: RunDirectory, error: BaseException) -> None:
    """status.json of a run that did not complete; run.log gets the traceback of an unexpected error.

    A full disk must not hide the original error. A completed run stays completed.
    """
    if directory.state() == "completed":
        return
    code = getattr(error, "exit_code", 1)
    state = "interrupted" if isinstance(error, Interrupted) else "pruned" if isinstance(error, Pruned) else "failed"
    foreseen = isinstance(error, (QuantlabError, Interrupted))
    message = str(error) if foreseen else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        directory.write_status(state, error=message, exit_code=code)
    if not foreseen or not isinstance(error.__cause__, (QuantlabError, NoneType)):
        directory.log.append("".join(traceback.format_exception(error)))
