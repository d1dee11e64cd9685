"""Every kind of run on a device that is not the CPU: all tensors are moved there."""

import subprocess
import sys

import pretended
import pytest
from run_files import results
from tiny import TINY_PTQ

pytestmark = pytest.mark.skipif(not pretended.POSSIBLE, reason="PyTorch before 2.10 has no backends in Python")

CLASSIFIER = (
    "model.depth=8",
    "model.width=4",
    "model.pretrain.steps=3",
    "method.epochs=1",
    "method.batch_size=256",
    "trainer.log_every=1",
)
SUPERNET = (
    "method=supernet",
    "model.width=2",
    "method.epochs=1",
    "method.batch_size=256",
    "method.ranking.stand_alone.subnets=2",
    "method.ranking.stand_alone.steps=2",
    "method.ranking.batch_size=64",
    "method.search.population=2",
    "method.search.generations=1",
    "method.search.crossover=1",
    "method.search.mutation=1",
    "trainer.max_steps=3",
)
DENOISER = (
    *TINY_PTQ,
    "model.sampler.steps=2",
    "model.sampler.eta=0.5",
    "method.group_size=2",
    "model.pretrain.steps=1",
    "task.feature_network.pretrain.steps=1",
    "task.evaluation.samples=8",
    "task.evaluation.step_error_samples=4",
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
)
RUNS = {
    "accuquant": ("method=accuquant", *DENOISER, "method.initialization.iterations=1", "method.iterations=1"),
    "step": (
        "method=ptq",
        *DENOISER,
        "method.reconstruction=step",
        "method.network_evaluations=4",
        "method.step_loss=output",
    ),
    "block": ("method=ptq", *DENOISER, "method.reconstruction=block", "method.network_evaluations=44"),
    "qat": ("method=qat", *CLASSIFIER),
    "low_bit": ("method=low_bit", *CLASSIFIER, "method.integer_check=true", "quantizer.gradient.alpha=0.01"),
    "supernet": SUPERNET,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_keeps_to_its_device(name, tmp_path):
    where, run = ("device=cpu", f"cache_dir={tmp_path / 'cache'}"), tmp_path / "run"
    command = [sys.executable, pretended.__file__, *RUNS[name], *where, f"output_dir={run}"]
    if name == "accuquant":  # what it left, with the bias of its output
        again = ("method=evaluate", f"method.run={run}", *where, f"output_dir={tmp_path / 'judged'}")
        command += [pretended.THEN, *again]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert results(run)["provenance"]["device"] == "pretend:0"
    if name == "accuquant":
        assert results(tmp_path / "judged")["metrics"] == results(run)["metrics"]
