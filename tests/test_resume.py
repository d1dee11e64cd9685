"""Every method, killed with SIGKILL while it trains, evaluates and writes a file, again and again, ends with the same
bits as an uninterrupted run: metrics, every logged line, the saved model, and what it cost.

The representative methods run always; the whole matrix, with more kills, with `-m slow`.
"""

import json
import signal
from pathlib import Path

import pytest
import torch
from forks import forked
from kills import disturbed
from run_files import results
from tiny import TINY, TINY_PTQ
from undrawn import undrawn

from quantlab.cli.main import main

MIN_MAX = ("quantizer.weight.scale_search=min_max", "quantizer.activation.scale_search=min_max")
ADAROUND = "quantizer.weight.rounding=adaround"
PTQ = ("method=ptq", *TINY_PTQ, *MIN_MAX)
ACCUQUANT = ("method=accuquant", *TINY_PTQ, *MIN_MAX, "method.initialization.iterations=4", "method.iterations=6")
CLASSIFIER = (
    "model.depth=8",
    "model.width=4",
    "model.pretrain.steps=10",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
)
TRAINED = (*CLASSIFIER, "method.epochs=1", "method.batch_size=128")
SUPERNET = (
    "method=supernet",
    "model.width=2",
    "method.epochs=1",
    "method.batch_size=128",
    "method.ranking.stand_alone.subnets=3",
    "method.ranking.stand_alone.steps=3",
    "method.ranking.batch_size=64",
    "method.search.population=4",
    "method.search.generations=2",
    "method.search.parents=2",
    "method.search.crossover=1",
    "method.search.mutation=1",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
)
# 18 units of 2 steps, and a checkpoint every 3: inside units and at their borders
BLOCK = (*PTQ, "method.reconstruction=block", "method.network_evaluations=120", "trainer.checkpoint_every=3")

REPRESENTATIVE = {
    "ptq-block-adaround": (*BLOCK, ADAROUND),
    "supernet-fsnas": (*SUPERNET, "method.sampler=fsnas", "trainer.max_steps=15"),
    "pretrain-classifier": (
        "method=pretrain",
        "model=resnet20",
        "task=digits",
        *CLASSIFIER,
        "model.pretrain.batch_size=128",
        # ten batches of 128, one of 14, one more
        "model.pretrain.steps=12",
        "trainer.drop_last=false",
    ),
}
MATRIX = REPRESENTATIVE | {
    "pretrain-denoiser": ("method=pretrain", *TINY, "trainer.log_every=1", "trainer.checkpoint_every=4"),
    "accuquant-from-an-empty-cache": (*ACCUQUANT, "trainer.checkpoint_every=3"),
    **{f"accuquant-{gradient}": (*ACCUQUANT, f"method.gradient={gradient}") for gradient in ("copy", "exact", "bptt")},
    "accuquant-sequential-adaround": (*ACCUQUANT, ADAROUND, "method.group_order=sequential", "model.sampler.eta=0.5"),
    "ptq-none": (*PTQ, "method.reconstruction=none"),
    "ptq-step": (*PTQ, "method.reconstruction=step", "method.network_evaluations=30"),
    "ptq-step-output-adaround": (
        *PTQ,
        ADAROUND,
        "method.reconstruction=step",
        "method.step_loss=output",
        "method.network_evaluations=40",
    ),
    "ptq-block": BLOCK,
    "qat-transition-rate": ("method=qat", *TRAINED),
    "qat-adamt": ("method=qat", *TRAINED, "method.optimizer=adamw"),
    "qat-learning-rate": ("method=qat", *TRAINED, "method.schedule=learning_rate"),
    **{
        f"qat-{cure}": (
            "method=qat",
            *TRAINED,
            "method.schedule=learning_rate",
            f"method.oscillation={cure}",
            f"method.{cure}.start=0.2",
        )
        for cure in ("freezing", "dampening")
    },
    "qat-last-batch": ("method=qat", *TRAINED, "trainer.drop_last=false"),
    "qat-teacher": ("method=qat", *TRAINED, "method.teacher.architecture=start"),
    **{
        f"low-bit-{interval}": ("method=low_bit", *TRAINED, f"quantizer.gradient.interval={interval}")
        for interval in ("large_gradient", "fixed", "min_max", "dsgc", "piecewise")
    },
    "low-bit-deviation-scaling": (
        "method=low_bit",
        *TRAINED,
        "quantizer.gradient.interval=dsgc",
        "quantizer.gradient.period=3",
        "method.deviation_scaling=true",
    ),
    **{f"supernet-{sampler}": (*SUPERNET, f"method.sampler={sampler}") for sampler in ("spos", "fairnas")},
    "supernet-recalibrated": (
        *SUPERNET,
        "method.ranking.batch_norm=recalibrated",
        "method.ranking.calibration_images=64",
    ),
}
# What a run makes for others is made again, where that is what is killed.
OWN_CACHE = ("pretrain-classifier", "pretrain-denoiser", "accuquant-from-an-empty-cache")

# (moment, share of the steps or count): each kill is of the run that goes on from the one before.
KILLS = [("training", 0.7), ("write", 3), ("evaluation", 10), ("write", 5)]
MORE_KILLS = [
    ("write", 2),
    ("training", 1),
    ("write", 2),
    ("training", 0.4),
    ("write", 3),
    ("training", 0.3),
    ("write", 4),
    ("write", 5),
    ("evaluation", 1),
    ("evaluation", 12),
    ("write", 2),
    ("write", 3),
    ("write", 4),
    ("write", 5),
    ("write", 6),
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with undrawn():  # in forks too
        yield
    torch.set_num_threads(threads)


def finished(directory: Path) -> dict:
    found = results(directory)
    cost = {name: value for name, value in found["cost"].items() if name not in ("seconds", "peak_memory_bytes")}
    return (
        {"cost": cost}
        | {part: found.get(part) for part in ("metrics", "baseline", "protocol", "diagnostics")}
        | {
            "lines": [path.read_text() for path in directory.glob("metrics.jsonl")],
            "model": (directory / "checkpoints/model.safetensors").read_bytes(),
        }
    )


def kill_and_compare(name: str, kills: list, cache: Path, tmp_path: Path) -> None:
    caches = [tmp_path / "cache1", tmp_path / "cache2"] if name in OWN_CACHE else [cache, cache]
    whole, directory, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    assert main([*MATRIX[name], f"output_dir={whole}", f"cache_dir={caches[0]}"]) == 0
    steps, killed = results(whole)["cost"]["steps"], 0
    words = [*MATRIX[name], f"output_dir={directory}", f"cache_dir={caches[1]}"]
    kills = [kill for kill in kills if steps or kill[0] != "training"]
    for moment, number in kills:
        code = disturbed(words, moment, int(steps * number) + 1 if isinstance(number, float) else number, log)
        assert code in (-signal.SIGKILL, 0), log.read_text()[-3000:]
        if code == 0:  # the moment did not come: nothing to train, or little to evaluate
            break
        killed += 1
        if (directory / "config.yaml").exists():
            words = [f"resume={directory}"]
    else:
        assert forked(lambda: main(words), log) == 0, log.read_text()[-3000:]
    assert killed >= len(kills) - 1
    assert finished(directory) == finished(whole)
    assert json.loads((directory / "status.json").read_text())["state"] == "completed"
    files = [*directory.rglob("*"), *caches[1].rglob("*")]
    assert not [path for path in files if path.suffix == ".tmp" or "unfinished" in path.name]


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(name, cache, tmp_path):
    kill_and_compare(name, KILLS, cache, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_every_method_killed_everywhere_ends_with_the_same_bits(name, cache, tmp_path):
    kill_and_compare(name, MORE_KILLS, cache, tmp_path)
