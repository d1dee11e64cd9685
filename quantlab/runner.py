"""One run: build its four parts, give them to the trainer, write what it leaves behind."""

import contextlib
import logging
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

import quantlab
from quantlab.config import RunConfig, config_hash, implementation, instantiate, to_plain
from quantlab.config.effects import without_effect
from quantlab.errors import Interrupted, QuantlabError, RequestError
from quantlab.full_precision import (
    build_model,
    full_precision_at_hand,
    given_model,
    provide_full_precision,
    say_of_weights,
)
from quantlab.methods.base import Method, Outcome, RunContext, run_length
from quantlab.methods.generation_evaluator import require_feature_network
from quantlab.methods.pretrain import Pretrain
from quantlab.methods.saved_model import SavedModel
from quantlab.methods.single_image import refuse_single_images
from quantlab.progress import Bar
from quantlab.report import figures, page
from quantlab.report.layers import quantized_share
from quantlab.run.cache import Cache
from quantlab.run.directory import RunDirectory
from quantlab.run.signals import as_interrupted, check, deferred, interruptible
from quantlab.run.state import save_model
from quantlab.trainer import Trainer

logger = logging.getLogger("quantlab")

# keys under which no file and no architecture is named
NOT_A_NAME = ("seed", "output_dir", "resume", "trainer", "logger")


def run(config: RunConfig, typed: list[str]) -> None:
    """Carry out one run, new or resumed (`config.resume`), and leave its directory as the contract says.

    typed: the overrides as the user typed them. Raises the QuantlabError family, after status.json says so.
    """
    started = time.perf_counter()
    with interruptible():
        context, method = prepare(config)
        directory = open_directory(context, config, typed)
        context.directory = directory
        main = context.accelerator.is_main_process
        with directory.log.attached() if main else contextlib.nullcontext():
            for line in without_effect(config.effects, to_plain(config), typed) if main else ():
                logger.warning(line)
            try:
                say_of_weights(context.model)
                outcome, trainer, steps = execute(context, method, directory, started)
                if main:
                    conclude(context, directory, outcome, steps, trainer)
                check()  # a signal that a library caught has still ended the run
            except BaseException as error:
                error = as_interrupted(error)
                # A second signal waits until the first is written down.
                with contextlib.suppress(Interrupted), deferred():
                    if main:
                        record_failure(directory, error)
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
        except Exception as error:  # not the request's fault: that job says it, and hinders no other
            logger.debug("%s", error)
    return [found[key] for key in keys]


def prepare(config: RunConfig, tasks: dict[str, Any] | None = None) -> tuple[RunContext, Method]:
    """Task, model, method and services of a run. Everything that can be wrong with the request is found here, before
    any work.

    tasks: checked tasks by the hash of their section, for several jobs to share; the task of this one is added.
    """
    saved_model = SavedModel(config.method.run) if config.method.opens_run and config.method.run is not None else None
    accelerator = make_accelerator(config)
    key, checked = config_hash(config.task), {} if tasks is None else tasks
    task = checked[key] if key in checked else instantiate(config.task)
    if config.trainer.num_workers is not None:
        task.workers = config.trainer.num_workers
    # Files of weights are read in moments, images are decoded in up to a minute: these come last
    # ptq's is a function
    getattr(implementation(config.method), "check_files", Method.check_files)(config.method, config)
    if config.method.judges_samples and config.model.kind == "denoiser":
        require_feature_network(task)
        if task.evaluation.features == "task_classifier":
            given_model(config.task.feature_network, task, "task.feature_network")
    model = given_model(config.model, task, "model") if saved_model is None else build_model(config.model, task)
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
        progress=progress_bar,
        feature_network=lambda: feature_network(context),
        trained=lambda section: trained_model(context, section),
        full_precision_at_hand=lambda: full_precision_at_hand(context),
        saved_model=saved_model,
    )
    if accelerator.device.type == "cuda":  # the jobs of a sweep share the process, and each reports its own peak
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    method = instantiate(config.method, context=context)
    refuse_single_images(context, method)
    return context, method


def make_accelerator(config: RunConfig, trackers: bool = True) -> Accelerator:
    """The accelerate object for `config.device`, precision and logger; also makes torch deterministic."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RequestError("device: got cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device: got mps, but torch sees none here; use device=cpu or device=auto")
    if config.logger.name == "wandb" and trackers:
        try:
            import wandb  # noqa: F401
        except ImportError:
            raise RequestError("logger=wandb needs the package: pip install wandb, or logger=none") from None
    AcceleratorState._reset_state()  # jobs of a sweep share a process and may differ in precision
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    name = config.logger.name
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.trainer.mixed_precision,
        log_with=name if trackers and name != "none" else None,
        project_dir=config.output_dir,
        dynamo_backend="inductor" if config.trainer.compile else None,
    )
    if accelerator.num_processes > 1 and not config.method.trains_network:
        raise RequestError(
            f"method={config.method.name} runs in one process; several (torchrun) are for methods that train: train"
            " with method=pretrain first, then run this method alone, which finds the weights in cache_dir"
        )
    return accelerator


def open_directory(context: RunContext, config: RunConfig, typed: list[str]) -> RunDirectory:
    """The run's directory, created or gone on with; with several processes, the first one's."""
    accelerator = context.accelerator
    (path,) = broadcast_object_list([str(config.output_dir)])
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return RunDirectory(path)
    if config.resume is not None:
        directory = RunDirectory.open(path)
        directory.write_status("running")
    else:
        directory = RunDirectory.create(path, to_plain(config) | {"output_dir": path}, typed)
    accelerator.wait_for_everyone()
    return directory


def execute(
    context: RunContext, method: Method, directory: RunDirectory, started: float
) -> tuple[Outcome, Trainer, int]:
    """Full-precision weights, the method in the trainer's loop, its end. Returns also the number of steps made.

    started: `time.perf_counter()` at which this sitting of the run began.
    """
    config, steps = context.config, 0
    if config.logger.name != "none":
        options = (
            {"wandb": {"dir": str(directory.path), "mode": config.logger.mode}} if config.logger.name == "wandb" else {}
        )
        context.accelerator.init_trackers(getattr(config.logger, "project", "quantlab"), init_kwargs=options)
    if method.needs_full_precision:
        provide_full_precision(context)
    trainer = Trainer(config.trainer, directory, context.accelerator, config.seed, started)
    # A run that has begun to train goes on with its own checkpoints: what it has put into the cache is its own work.
    if not (
        isinstance(method, Pretrain)
        and not trainer.has_begun
        and method.restore(run_length(config.trainer, method.steps, method.steps_per_epoch))
    ):
        steps = trainer.fit(method, config.method.name)
    return method.finish(), trainer, steps


def conclude(context: RunContext, directory: RunDirectory, outcome: Outcome, steps: int, trainer: Trainer) -> None:
    """Model, figures, report.md, and last results.json, the state, and the table on stdout."""
    if outcome.model is not None:
        save_model(directory.model_path.with_suffix(""), outcome.model, outcome.model_facts)
    if outcome.best_model is not None:
        save_model(
            directory.best_model_path.with_suffix(""),
            outcome.best_model,
            outcome.model_facts | {"weights": f"step {outcome.best['step']}"},
        )
    results = results_of(context, outcome, steps, trainer.seconds)
    rows = directory.metrics.read()
    if len(rows) > 1:
        figures.training_curves(rows, directory.figures / "training.png")
    page.write_page(directory.path, results)
    check()
    with deferred():  # a run is completed whole or not at all
        directory.write_results(results)
        directory.write_status("completed", exit_code=0)
        directory.log.print(page.final_table(results))
        directory.log.print(f"report: {directory.report_path}")


def results_of(context: RunContext, outcome: Outcome, steps: int, seconds: float) -> dict:
    """results.json as plain data; schema in the contract."""
    config, quantizer = context.config, context.config.quantizer
    bits = {part: getattr(quantizer, part).bits for part in ("weight", "activation", "gradient")}
    results = {
        "method": config.method.name,
        "task": config.task.name,
        "model": config.model.name,
        "seed": config.seed,
        "bits": bits,
        "metrics": outcome.metrics,
        "baseline": outcome.baseline,
        "protocol": outcome.protocol,
        "cost": {
            "seconds": round(seconds, 2),
            "steps": steps,
            "peak_memory_bytes": peak_memory(context),
            **outcome.cost,
        },
        "provenance": {
            "quantlab": quantlab.__version__,
            "commit": commit(),
            "torch": torch.__version__,
            "device": str(context.device),
            "config_sha256": config_hash(config, without=("output_dir", "resume", "cache_dir")),
        },
    }
    layers = context.directory.read_layers()
    more = {
        "quantized": None if layers is None else quantized_share(layers, bits),
        "best": outcome.best,
        "diagnostics": outcome.diagnostics,
        "notes": outcome.notes,
    }
    return results | {key: value for key, value in more.items() if value}


def record_failure(directory: RunDirectory, error: BaseException) -> None:
    """status.json of a run that did not complete; run.log gets the traceback of an error that nobody foresaw.

    A disk too full even for that must not hide the first error. A run that has completed stays so, whatever came after.
    """
    if directory.state() == "completed":
        return
    code = getattr(error, "exit_code", 1)
    state = "interrupted" if isinstance(error, Interrupted) else "failed"
    foreseen = isinstance(error, (QuantlabError, Interrupted))
    message = str(error) if foreseen else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        directory.write_status(state, error=message, exit_code=code)
    if not foreseen or not isinstance(error.__cause__, (QuantlabError, NoneType)):
        directory.log.append("".join(traceback.format_exception(error)))


def feature_network(context: RunContext):
    """FID's feature network as the task's `evaluation.features` says: "inception", its classifier, trained once, or
    None.
    """
    features = context.task.evaluation.features
    if features != "task_classifier":
        return None if features == "none" else features
    return trained_model(context, context.config.task.feature_network, "task.feature_network")


def trained_model(context: RunContext, section, key: str = "model") -> torch.nn.Module:
    """The model of another `model` section, which the config has under `key`, on the run's task, in full precision, in
    evaluation
    mode, on the device."""
    own = replace(
        context,
        model=given_model(section, context.task, key).to(context.device),
        config=context.config.model_copy(update={"model": section}),
    )
    say_of_weights(own.model)
    provide_full_precision(own)
    return own.model


def progress_bar(batches: Iterable, what: str) -> Iterator:
    """`batches` with a bar on stderr, shown only once they have taken a second."""
    for batch in Bar(batches, what, delay=1, leave=False):
        check()  # a signal that a library caught ends the run here
        yield batch


def peak_memory(context: RunContext) -> int:
    """Bytes: of the device's allocator on CUDA, else the process's largest resident set so far."""
    if context.device.type == "cuda":
        return torch.cuda.max_memory_allocated(context.device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def commit() -> str | None:
    """The commit of the source tree this package was imported from, or None where it is no checkout."""
    command = ["git", "-C", str(Path(quantlab.__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
