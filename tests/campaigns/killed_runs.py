"""A run of any method, killed at a random moment, in training, in evaluation or while it writes a file, and resumed,
once to three times, ends with the bits of one that never stopped, and leaves no other files.
"""

import json
import random
import signal
from pathlib import Path

from forks import forked
from kills import disturbed
from small_runs import SMALL, same_numbers, whole

from quantlab.cli.main import main

MOMENTS = {"training": 5, "evaluation": 12, "write": 14}  # up to which count


def trial(seed: int, folder: Path, shared: Path) -> str:
    draw = random.Random(seed)
    name = draw.choice(list(SMALL))
    kills = [
        (moment := draw.choice(list(MOMENTS)), draw.randint(1, MOMENTS[moment])) for _ in range(draw.randint(1, 3))
    ]
    own_cache = name.startswith("pretrain") or draw.random() < 0.2
    reference, directory, log = whole(name, shared), folder / "run", folder / "log"
    cache = folder / "cache" if own_cache else shared / "cache"
    words = [*SMALL[name], f"output_dir={directory}", f"cache_dir={cache}"]
    killed = []
    for moment, count in kills:
        code = disturbed(words, moment, count, log)
        assert code in (-signal.SIGKILL, 0), f"{name} {kills}: exit {code}: {log.read_text()[-600:]}"
        if code == 0:
            break
        killed.append(moment)
        if (directory / "config.yaml").exists():
            words = [f"resume={directory}"]
    else:
        code = forked(lambda: main(words), log)
        assert code == 0, f"{name} {kills}: exit {code}: {log.read_text()[-600:]}"
    assert json.loads((directory / "status.json").read_text())["state"] == "completed"
    assert (difference := same_numbers(directory, reference)) == "", f"{name} {kills}: {difference}"
    left = [file.name for file in [*directory.rglob("*"), *folder.glob("cache/**/*")] if _is_left(file)]
    assert left == [], f"{name} {kills}: left {left}"
    return f"the same bits after {len(killed)} kill{'s' * (len(killed) != 1)}"


def _is_left(file: Path) -> bool:
    return file.name.startswith(".tmp") or file.suffix == ".tmp" or "unfinished" in file.name or file.name == ".lock"
