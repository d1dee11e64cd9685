"""The cost of complexity-aware rates and momentum separation: steps of SPOS with and without them, alternating in one
run.

    python scripts/benchmark_supernet_cost.py                                 # the small space, two minutes, one core
    python scripts/benchmark_supernet_cost.py model=nas_bench_201 device=cuda # the benchmark's networks

Both sides are `method=supernet` on digits enlarged to 32x32; command-line overrides apply to both. They draw the same
subnets in the same order and take turns at every step; the table gives the median ratio of the two times. On a CPU it
is process time, so that other work does not count. Memory is that of all tensors alive between two steps (weights,
images, momentum) that were not alive before the side was built.
"""

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from quantlab.config import validate
from quantlab.methods.base import Method
from quantlab.runner import prepare
from quantlab.seeding import seed_everything
from quantlab.tasks.base import to_device

COMMON = [
    "method=supernet",
    "task.image_size=32",
    "method.sampler=spos",
    "method.epochs=1000",
    "trainer.log_every=1000000",
]
WARM_UP = 200  # steps in which every cluster gets its buffers
SIDES = {"SPOS": ["method.calr=false", "method.momentum_separation=false"], "SPOS + CaLR + MS": []}


class Side:
    """A method stepped like in the trainer, without log and checkpoints."""

    def __init__(self, words: list[str]):
        with initialize_config_module("quantlab.conf", version_base="1.3"):
            config = validate(OmegaConf.to_container(compose("config", [*COMMON, *words]), resolve=True))
        self.context, self.method = prepare(config)
        self.method.build(self.method.steps)

    def step(self, number: int) -> float:
        """Seconds of a step: subnet and rate, forward, backward, update."""
        method: Method = self.method
        batch = to_device(
            method.collate(method.dataset.__getitems__(method.batch_indices(number))), self.context.device
        )
        seed_everything(0, number)
        started = self.now()
        method.before_step(number)
        method.gradients(batch)
        method.after_backward()
        method.update()
        method.after_update()
        return self.now() - started

    def now(self) -> float:
        if self.context.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def bytes_alive() -> int:
    """Bytes of all tensors, each storage counted once."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def momentum_bytes(side: Side) -> int:
    return sum(state["momentum_buffer"].nbytes for memory in side.method.separated.states for state in memory.values())


def measure(words: list[str], steps: int) -> tuple[dict[str, list[float]], dict[str, tuple[int, int]]]:
    """For each side the seconds of every step, and the bytes of all its tensors and of its momentum."""
    sides, memory = {}, {}
    for name, own in SIDES.items():
        before = bytes_alive()
        side = sides[name] = Side([*words, *own])
        for number in range(WARM_UP):
            side.step(number)
        memory[name] = bytes_alive() - before, momentum_bytes(side)
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(WARM_UP, WARM_UP + steps):
        for name in list(SIDES) if number % 2 else reversed(SIDES):
            times[name].append(sides[name].step(number))
        if number % 100 == 0:
            print(f"step {number - WARM_UP} of {steps}", file=sys.stderr, flush=True)
    return times, memory


def table(times: dict[str, list[float]], memory: dict[str, tuple[int, int]]) -> str:
    plain, dynamic = SIDES
    lines = ["| | milliseconds a step | tensors, bytes | of them momentum |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {1000 * statistics.median(times[name]):.2f} | {memory[name][0]:,} | {memory[name][1]:,} |"
        for name in SIDES
    ]
    quotients = [b / a for a, b in zip(times[plain], times[dynamic], strict=True)]
    lower, _, upper = statistics.quantiles(quotients, n=4)
    more, buffers = (memory[dynamic][part] - memory[plain][part] for part in (0, 1))
    time_words = (
        f"Time: {statistics.median(quotients):.4f} times SPOS's step (median of {len(quotients)} pairs of steps on one"
        f" subnet; quartiles {lower:.4f}, {upper:.4f})."
    )
    return "\n".join(
        [*lines, "", f"{time_words} Memory: {more:,} bytes more, of which {buffers:,} are momentum buffers."]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="words of the quantlab command, for both sides")
    parser.add_argument("--steps", type=int, default=600, help="timed, of each side")
    parser.add_argument("--output", type=Path, help="also write FILE.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    times, memory = measure(options.words, options.steps)
    text = (
        "# Cost of CaLR and momentum"
        f" separation\n\n`{' '.join(['python', 'scripts/benchmark_supernet_cost.py', *sys.argv[1:]])}`: one thread,"
        f" {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}.\n\n{table(times, memory)}\n"
    )
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
