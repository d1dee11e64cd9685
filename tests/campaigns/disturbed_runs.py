"""A run whose directory another process wants too, whose disk fills or fails at a random write, or whose stdout or
stderr is closed, full or a pipe without a reader: it ends with one line and resumes to the same bits, or it completes.
"""

import errno
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from forks import forked
from kills import disturbed
from small_runs import SMALL, quantlab, same_numbers, whole

from quantlab.cli.main import main
from quantlab.run.directory import RunDirectory

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def trial(seed: int, folder: Path, shared: Path) -> str:
    draw = random.Random(seed)
    name, kind = draw.choice(list(SMALL)), draw.choice([failing_write, size_limit, closed_stream, two_writers])
    reference = whole(name, shared)
    words = [*SMALL[name], f"output_dir={folder / 'run'}", f"cache_dir={shared / 'cache'}"]
    if name.startswith("pretrain"):
        words[-1] = f"cache_dir={folder / 'cache'}"
    outcome = kind(draw, words, folder)
    difference = same_numbers(folder / "run", reference)
    assert difference == "", f"{name}, {outcome}: {difference}"
    return outcome


def failing_write(draw: random.Random, words: list[str], folder: Path) -> str:
    number, count, log = draw.choice(ERRORS), draw.randint(1, 14), folder / "log"

    def fails() -> None:
        raise OSError(number, os.strerror(number))

    code = disturbed(words, "write", count, log, fails)
    return _resumed(code, words, folder, f"a write failed by {errno.errorcode[number]}")


def size_limit(draw: random.Random, words: list[str], folder: Path) -> str:
    """No file may grow beyond a size: as on a full disk, wherever it is written."""
    size = int(10 ** draw.uniform(2, 5.5))

    def limited() -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        return main(words)

    said = folder / "log"
    return _resumed(forked(limited, said), words, folder, "the disk was full")


def _resumed(code: int, words: list[str], folder: Path, what: str) -> str:
    text = (folder / "log").read_text()
    if code == 0:
        return "completed all the same"
    errors = [line for line in text.splitlines() if line.startswith("quantlab: error")]
    # A size limit holds for the log as well, which may have lost the line.
    assert code in (1, 2) and len(errors) <= 1 and "Traceback" not in text, f"{what}: exit {code}: {text[-600:]}"
    if RunDirectory(folder / "run").holds_a_run():
        words = [f"resume={folder / 'run'}"]
    code, said = quantlab(*words)
    assert code == 0, f"{what}, then {words[0]}: exit {code}: {said[-600:]}"
    return f"{what}; resumed to the same bits"


def closed_stream(draw: random.Random, words: list[str], folder: Path) -> str:
    stream, how = draw.choice((1, 2)), draw.choice(("closed", "full", "without a reader"))

    def work() -> int:
        if how == "closed":
            os.close(stream)
        elif how == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), stream)
        else:
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, stream)
        return main(words)

    code = forked(work, folder / "log")
    assert code == 0, f"stream {stream} {how}: exit {code}: {(folder / 'log').read_text()[-600:]}"
    return f"std{'out' if stream == 1 else 'err'} {how}: completed"


def two_writers(draw: random.Random, words: list[str], folder: Path) -> str:
    """The first stops in the middle; the second wants to go on with its run."""
    killed = draw.random() < 0.5
    count, log = draw.randint(1, 4), folder / "log"
    stop: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGSTOP)  # noqa: E731
    pid = os.fork()
    if pid == 0:
        os._exit(disturbed_here(words, count, log, stop))
    for _ in range(6000):
        if os.waitpid(pid, os.WNOHANG | os.WUNTRACED)[0]:
            break
        time.sleep(0.01)
    code, said = quantlab(f"resume={folder / 'run'}")
    refused = code == 2 and f"process {pid} on" in said and "is working on this run" in said
    os.kill(pid, signal.SIGKILL if killed else signal.SIGCONT)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert refused, f"a second process got exit {code}: {said[-600:]}"
    if not killed:
        assert status == 0, f"the first process got exit {status}: {log.read_text()[-600:]}"
        return "a second process was refused, the first completed"
    code, said = quantlab(f"resume={folder / 'run'}")
    assert code == 0, f"after the first was killed: exit {code}: {said[-600:]}"
    return "a second process was refused, and went on once the first was killed"


def disturbed_here(words: list[str], count: int, log: Path, act: Callable[[], None]) -> int:
    """As `kills.disturbed`, in this process, which is a fork."""
    from kills import Moments

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    with Moments("training", count, act):
        return main(words)
