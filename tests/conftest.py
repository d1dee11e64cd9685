"""What several test files share: the command on a model so small that a whole run takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# 6 denoising steps in 2 groups, a UNet of 8 and 16 channels, everything else as small as it goes.
TINY = (
    "model.unet.block_out_channels=[8,16]", "model.unet.norm_num_groups=4", "model.pretrain.steps=12",
    "model.pretrain.batch_size=16", "model.sampler.steps=6", "task.feature_network.pretrain.steps=4",
    "task.feature_network.width=8", "task.evaluation.samples=24", "task.evaluation.step_error_samples=8", "device=cpu",
)
TINY_PTQ = (
    *TINY, "method.calibration.trajectories=12", "method.calibration.range_samples=4", "method.batch_size=4",
    "method.group_size=3", "trainer.log_every=1", "trainer.checkpoint_every=4",
)
TINY_ACCUQUANT = ("method=accuquant", *TINY_PTQ, "method.iterations=12")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for the session: the tiny full-precision model is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quantlab(cache, capsys, monkeypatch):
    """quantlab(word, ...) -> (exit code, stdout, stderr), in this process."""
    from quantlab.cli.main import main
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def command(*words):
        own_cache = any(word.startswith(("cache_dir=", "resume=", "-h", "--")) for word in words)
        code = main([*words] if own_cache else [*words, f"cache_dir={cache}"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def process(cache, tmp_path):
    """process(word, ...) -> Popen of the command in a process of its own, for signals."""
    started = []

    def start(*words, launcher=(sys.executable, "-m", "quantlab.cli")):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(
            [*launcher, *words, f"cache_dir={cache}"], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
            one.wait()
