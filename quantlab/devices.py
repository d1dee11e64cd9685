"""Where a run computes: the device, precision and processes that its config asks for."""

import resource
import sys
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from quantlab.config import RunConfig
from quantlab.errors import RequestError
from quantlab.optional import require


def make_accelerator(config: RunConfig) -> Accelerator:
    """The accelerate object for `config.device`, precision and logger; also makes torch deterministic, and begins the
    count of `peak_memory` anew.

    Raises: RequestError for a device or a logger that is not there, and for several processes where the method takes
    one.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RequestError("device: got cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device: got mps, but torch sees none here; use device=cpu or device=auto")
    if config.logger.name != "none":  # accelerate would pass over it in silence
        require(config.logger.name, config.logger.name, f"logger={config.logger.name}")
    AcceleratorState._reset_state()  # jobs of a sweep share a process and may differ in precision
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # as of matrix products: of float32's 23 bits it would keep 10
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.trainer.mixed_precision,
        log_with=None if config.logger.name == "none" else config.logger.name,
        project_dir=config.output_dir,
        dynamo_backend="inductor" if config.trainer.compile else None,
    )
    if accelerator.num_processes > 1 and not (config.method.trains_network or config.method.divides_batches):
        raise RequestError(
            f"method={config.method.name} runs in one process; several (torchrun) are for methods that train or"
            " quantize: run it without torchrun, which finds weights and trajectories in cache_dir"
        )
    begin_peak(accelerator.device)  # the jobs of a sweep share the process, and each reports its own
    return accelerator


def init_trackers(accelerator: Accelerator, config: RunConfig) -> None:
    """Start the logger of the config, if it names one."""
    options = {}
    if config.logger.name == "wandb":
        options = {"wandb": {"dir": str(config.output_dir), "mode": config.logger.mode}}
    if config.logger.name != "none":
        accelerator.init_trackers(getattr(config.logger, "project", "quantlab"), init_kwargs=options)


def begin_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew; on a CPU it is the process's, from its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_in_use(device: torch.device) -> int:
    """Bytes, counted as in `peak_memory`."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on CUDA, else the process's largest resident set so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated: on CUDA on the device, else in main memory, of which a container may have less
    than its machine.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return max(free, 0)
