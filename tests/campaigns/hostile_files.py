"""Files that somebody else made to harm: read by the command, they execute nothing, write nothing outside, and end in a
moment, in one line or in a sound answer.

Each is made here, from the seed, and never lies in the repository.
"""

import contextlib
import io
import json
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
from hostile_text import DEEP, DEEP_JSON, LAUGHS, LOOP
from mutated_commands import stopped_at_the_start

from quantlab.cli.main import main
from quantlab.cli.report import main as report

TARGETS = ("os.mkdir", "builtins.exec", "subprocess.run", "quantlab.report.page.write_page", "torch.load")
TEXTS = (
    LAUGHS,
    LOOP,
    DEEP,
    DEEP_JSON,
    "",
    "null",
    "[1]",
    "9" * 5000,
    "\0",
    "!!python/object/apply:os.mkdir [owned]",
    "{",
)
RUN_FILES = ("config.yaml", "status.json", "results.json", "metrics.jsonl", "layers.json", ".hydra/overrides.yaml")
RESULTS = {"method": "qat", "task": "digits", "model": "resnet20", "seed": 0, "bits": {}, "metrics": {"top1": 1.0}}


class Makes:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def own_yaml(draw: random.Random, folder: Path) -> list[list[str]]:
    """A folder of configs: nodes that name what is to be called, in quantlab's and in Hydra's sections, and bombs."""
    call = {"_target_": draw.choice(TARGETS), "path": str(folder / "owned"), "name": str(folder / "owned")}
    text = draw.choice(
        [
            json.dumps(
                {"hydra": {draw.choice(("callbacks", "launcher", "job_logging")): {"x": call, "()": "os.mkdir"}}}
            ),
            json.dumps({draw.choice(("model", "task", "quantizer", "method")): call}),
            json.dumps({"model": {"deeper": [{"x": call}]}}),
            *TEXTS,
        ]
    )
    (folder / "theirs" / "experiment").mkdir(parents=True)
    (folder / "theirs" / "experiment" / "x.yaml").write_text("# @package _global_\n" + text)
    question = draw.choice(([], ["--cfg", "job"], ["--info", "config"], ["-m", "seed=0,1"]))
    return [["--config-dir", str(folder / "theirs"), "experiment=x", *question]]


def run_directory(draw: random.Random, folder: Path) -> list[list[str]]:
    """The directory of a run: bombs, pipes and links in the place of its files."""
    run = folder / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    (run / "status.json").write_text('{"state": "interrupted"}')
    (run / "results.json").write_text(json.dumps(RESULTS | {"metrics": draw.choice(({}, {"top1": "x"}, {"a": [1]}))}))
    file = run / draw.choice(RUN_FILES)
    file.unlink(missing_ok=True)
    how = draw.choice(("text", "text", "pipe", "link"))
    if how == "text":
        file.write_text(draw.choice(TEXTS))
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(draw.choice(("/dev/zero", str(folder / "outside"), "/etc/passwd")))
    return [
        ["report", str(run), "--output", str(folder / "page")],
        [f"resume={run}"],
        ["method=sample", f"method.run={run}"],
    ]


def pickles(draw: random.Random, folder: Path) -> list[list[str]]:
    """Weights and data that would run code where they are unpickled."""
    harm = pickle.dumps(Makes(folder / "owned"))
    weights = folder / draw.choice(("w.pth", "w.safetensors", "w.bin", "w.safetensors.index.json"))
    weights.write_bytes(harm)
    np.savez(folder / "mnist.npz", train_images=np.array([Makes(folder / "owned")], dtype=object), train_labels=[0])
    small = ["method=pretrain", "model=resnet20", "model.depth=8", "model.width=2"]
    return [[*small, "task=digits", f"model.weights={weights}"], [*small, "task=mnist", f"data_dir={folder}"]]


def trial(seed: int, folder: Path, shared: Path) -> str:
    draw = random.Random(seed)
    make = draw.choices((own_yaml, run_directory, pickles), weights=(6, 6, 1))[0]
    os.chdir(folder)
    ended = set()
    for words in make(draw, folder):
        started, said = time.process_time(), io.StringIO()
        hold = contextlib.nullcontext() if make is pickles else stopped_at_the_start()
        with hold, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = report(words[1:]) if words[0] == "report" else main([*words, f"cache_dir={folder / 'cache'}"])
        seconds = time.process_time() - started
        assert code in (0, 2), f"exit {code}: {said.getvalue()[-300:]} <- {words}"
        assert "Traceback" not in said.getvalue() and "HYDRA_FULL_ERROR" not in said.getvalue(), said.getvalue()[-300:]
        assert seconds < 20, f"{seconds:.1f} s: {words}"
        ended.add("refused" if code else "read")
    assert not (folder / "owned").exists() and not (folder / "outside").exists(), f"{make.__name__} reached outside"
    os.chdir(shared)
    return f"{make.__name__}: {' or '.join(sorted(ended))}"
