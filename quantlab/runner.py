"""One run: build its four parts, give them to the trainer, write what it leaves behind."""

import contextlib
import logging
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

import quantlab
from quantlab.cache import Cache
from quantlab.checkpoint import load_model, save_model, strict_load
from quantlab.config import RunConfig, config_hash, instantiate, load_config, to_plain
from quantlab.config.effects import overruled, without_effect
from quantlab.errors import Interrupted, QuantlabError, RequestError
from quantlab.full_precision import build_model, load_weights, provide_full_precision
from quantlab.methods.base import Method, Outcome, RunContext, run_length
from quantlab.methods.pretrain import Pretrain
from quantlab.metrics.fid import FrechetDistance
from quantlab.report import figures, page
from quantlab.report.layers import quantized_share, read_layers
from quantlab.report.runs import read_metrics
from quantlab.run_directory import RunDirectory
from quantlab.signals import interruptible
from quantlab.trainer import Trainer

logger = logging.getLogger("quantlab")

MODEL = "model"     # checkpoints/model.safetensors: what the run made, ready to be sampled from


def run(config: RunConfig, typed: list[str]) -> None:
    """Carry out one run, new or resumed (`config.resume`), and leave its directory as the contract says.

    typed: the overrides as the user typed them. Raises the QuantlabError family, after status.json says so.
    """
    with interruptible():
        started = time.perf_counter()
        if config.resume is None and (problems := overruled(config.method, typed)):
            raise RequestError(*problems)
        context, method = prepare(config)
        directory = open_directory(context, config, typed)
        context.directory = directory.path
        main = context.accelerator.is_main_process
        with directory.attach_log() if main else contextlib.nullcontext():
            for line in without_effect(to_plain(config), typed) if main else ():
                logger.warning(line)
            try:
                outcome, steps = execute(context, method, directory)
                if main:
                    conclude(context, directory, outcome, steps, time.perf_counter() - started)
            except BaseException as error:
                if main:
                    record_failure(directory, error)
                raise
            finally:
                context.accelerator.end_training()


def prepare(config: RunConfig) -> tuple[RunContext, Method]:
    """Task, model, method and services of a run. Everything that can be wrong with the request is found here, before any work."""
    saved_model = None
    if config.method.name == "sample":
        config, saved_model = open_finished_run(config)
    accelerator = make_accelerator(config)
    task = instantiate(config.task)
    if config.trainer.num_workers is not None:
        task.workers = config.trainer.num_workers
    task.check()
    if task.kind == "generation" and task.evaluation.features == "task_classifier":
        build_model(config.task.feature_network, task)     # refuses a task without labels
    elif task.kind == "generation" and not config.method.trains_network:
        FrechetDistance("inception")    # fetches its weights, or says what is missing
    model = build_model(config.model, task)
    if config.model.weights is not None and saved_model is None:
        load_weights(model, config.model.weights, "model.weights")
    context = RunContext(
        config=config, task=task, model=model.to(accelerator.device), accelerator=accelerator,
        cache=Cache(config.cache_dir), directory=Path(config.output_dir), progress=progress_bar,
        feature_network=lambda: feature_network(context), trained=lambda section: trained_model(context, section), saved_model=saved_model,
    )
    if accelerator.device.type == "cuda":   # the jobs of a sweep share the process, and each reports its own peak
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    return context, instantiate(config.method, context=context)


def open_finished_run(config: RunConfig) -> tuple[RunConfig, SimpleNamespace]:
    """method=sample: the config with the other run's task, model and quantizer, and that run's model.

    Returns also `facts` of the model and `load_into(module)`. Raises RequestError where there is no such run or model,
    CorruptFileError where its bytes are not what was written.
    """
    other = load_config(config.method.run)
    path = Path(config.method.run) / "checkpoints" / MODEL
    if not path.with_suffix(".safetensors").is_file() or other.quantizer.name == "none":
        raise RequestError(f"method.run: {config.method.run} left no quantized model; give a completed accuquant or ptq run")
    tensors, facts = load_model(path)

    def load_into(module: torch.nn.Module) -> None:
        strict_load(module, tensors, str(path.with_suffix(".safetensors")))

    taken = {"task": other.task, "model": other.model, "quantizer": other.quantizer}
    return config.model_copy(update=taken), SimpleNamespace(facts=facts, load_into=load_into)


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
    AcceleratorState._reset_state()     # jobs of a sweep share a process and may differ in precision
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    name = config.logger.name
    accelerator = Accelerator(
        cpu=config.device == "cpu", mixed_precision=config.trainer.mixed_precision,
        log_with=name if trackers and name != "none" else None, project_dir=config.output_dir,
        dynamo_backend="inductor" if config.trainer.compile else None,
    )
    if accelerator.num_processes > 1 and not config.method.trains_network:
        raise RequestError(
            f"method={config.method.name} runs in one process; several (torchrun) are for methods that train: train with "
            "method=pretrain first, then run this method alone, which finds the weights in cache_dir"
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


def execute(context: RunContext, method: Method, directory: RunDirectory) -> tuple[Outcome, int]:
    """Full-precision weights, the method in the trainer's loop, its end. Returns also the number of steps made."""
    config, steps = context.config, 0
    if config.logger.name != "none":
        options = {"wandb": {"dir": str(directory.path), "mode": config.logger.mode}} if config.logger.name == "wandb" else {}
        context.accelerator.init_trackers(getattr(config.logger, "project", "quantlab"), init_kwargs=options)
    if method.needs_full_precision:
        provide_full_precision(context)
    trainer = Trainer(config.trainer, directory, context.accelerator, config.seed)
    if isinstance(method, Pretrain) and method.restore(run_length(config.trainer, method.steps, method.steps_per_epoch)):
        logger.info("full-precision %s: found in the cache, nothing to train", config.model.name)
    else:
        steps = trainer.fit(method, config.method.name)
    return method.finish(), steps


def conclude(context: RunContext, directory: RunDirectory, outcome: Outcome, steps: int, seconds: float) -> None:
    """Model, figures, report.md, the table on stdout, and last results.json and the state."""
    if outcome.model is not None:
        save_model(directory.checkpoints / MODEL, outcome.model, outcome.model_facts)
    results = results_of(context, outcome, steps, seconds)
    rows = read_metrics(directory.path)
    if len(rows) > 1:
        figures.training_curves(rows, directory.figures / "training.png")
    page.write_page(directory.path, results)
    directory.write_results(results)
    directory.write_status("completed", exit_code=0)
    directory.print_table(page.final_table(results))
    directory.print_table(f"report: {directory.report_path}")


def results_of(context: RunContext, outcome: Outcome, steps: int, seconds: float) -> dict:
    """results.json as plain data; schema in the contract."""
    config, quantizer = context.config, context.config.quantizer
    bits = {part: getattr(quantizer, part).bits for part in ("weight", "activation", "gradient")}
    results = {
        "method": config.method.name, "task": config.task.name, "model": config.model.name, "seed": config.seed,
        "bits": bits, "metrics": outcome.metrics, "baseline": outcome.baseline, "protocol": outcome.protocol,
        "cost": {"seconds": round(seconds, 2), "steps": steps, "peak_memory_bytes": peak_memory(context), **outcome.cost},
        "provenance": {
            "quantlab": quantlab.__version__, "commit": commit(), "torch": torch.__version__, "device": str(context.device),
            "config_sha256": config_hash(config, without=("output_dir", "resume", "cache_dir")),
        },
    }
    layers = read_layers(context.directory)
    if layers is not None:
        results["quantized"] = quantized_share(layers, bits)
    return results | ({"diagnostics": outcome.diagnostics} if outcome.diagnostics else {})


def record_failure(directory: RunDirectory, error: BaseException) -> None:
    """status.json of a run that did not complete; run.log gets the traceback of an error that nobody foresaw.

    A disk too full even for that must not hide the first error.
    """
    code = getattr(error, "exit_code", 1)
    state = "interrupted" if isinstance(error, Interrupted) else "failed"
    message = str(error) if isinstance(error, QuantlabError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        directory.write_status(state, error=message, exit_code=code)
    if not isinstance(error, QuantlabError):
        directory.append_to_log("".join(traceback.format_exception(error)))


def feature_network(context: RunContext):
    """FID's feature network as the task's `evaluation.features` says: "inception", or its classifier, trained once."""
    if context.task.evaluation.features == "inception":
        return "inception"
    return trained_model(context, context.config.task.feature_network, "task.feature_network")


def trained_model(context: RunContext, section, key: str = "model") -> torch.nn.Module:
    """The model of another `model` section, which the config has under `key`, on the run's task, in full precision, in evaluation
    mode, on the device."""
    own = replace(context, model=build_model(section, context.task).to(context.device),
                  config=context.config.model_copy(update={"model": section}))
    if section.weights is not None:
        load_weights(own.model, section.weights, f"{key}.weights")
    provide_full_precision(own)
    return own.model


def progress_bar(batches: Iterable, what: str) -> Iterable:
    """`batches` with a bar on stderr, shown only once they have taken a second."""
    return tqdm(batches, desc=what, unit="batch", delay=1, leave=False, dynamic_ncols=True)


def peak_memory(context: RunContext) -> int:
    """Bytes: of the device's allocator on CUDA, else the process's largest resident set so far."""
    if context.device.type == "cuda":
        return torch.cuda.max_memory_allocated(context.device)
    unit = 1 if sys.platform == "darwin" else 1024      # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def commit() -> str | None:
    """The commit of the source tree this package was imported from, or None where it is no checkout."""
    command = ["git", "-C", str(Path(quantlab.__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
