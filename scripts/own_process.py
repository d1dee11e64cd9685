"""What the benchmarks of memory share: a process of its own for what is measured, and the files that they write."""

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
GIB = 2**30


def in_process_of_its_own(measure: Callable[..., Result], *arguments: Any) -> Result:
    """`measure(*arguments)`, where its peak of resident memory is its own. Raises MemoryError where the process was
    ended, by `never_above` or by the system.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # read by glibc at the start of the process: freed blocks go back
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except BrokenProcessPool:
            raise MemoryError("the process was ended: out of memory, or above its limit") from None


def never_above(gib: float | None) -> None:
    """End this process as soon as its resident memory is above so many GiB."""
    import torch

    from quantlab.devices import memory_in_use

    def watch() -> None:
        while gib is not None:
            if memory_in_use(torch.device("cpu")) > gib * GIB:
                os._exit(9)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()


def columns_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table whose columns are the keys."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(row.get(name, '')) for name in names)} |" for row in rows)])


def write_rows(output: Path, script: str, table: str, options: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """OUTPUT.md with the table and the command, OUTPUT.json with the numbers."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["scripts/" + script, *sys.argv[1:]])
    output.with_suffix(".md").write_text(f"Made by `python {command}`, one run.\n\n{table}\n")
    output.with_suffix(".json").write_text(json.dumps({"options": options, "rows": rows}, indent=1) + "\n")
