"""Every kind of run on a device that is not the CPU: all tensors are moved there."""

import json
import subprocess
import sys

import pretended
import pytest
from run_files import results
from tiny import PLAIN, TINY_PTQ

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
    "method.calibration.trajectories=4",
    "method.calibration.range_samples=2",
    "method.batch_size=2",
    "task.evaluation.samples=4",
    "task.evaluation.step_error_samples=2",
    *PLAIN,
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


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of all runs, and their exit codes; what the first one caches, weights and walks, others load. Last,
    what the first one left is evaluated, with the bias of its output.
    """
    folder = tmp_path_factory.mktemp("devices")
    ours = ("device=cpu", f"cache_dir={folder / 'cache'}")
    runs = RUNS | {"evaluate": ("method=evaluate", f"method.run={folder / 'accuquant'}")}
    commands = {name: [*words, *ours, f"output_dir={folder / name}"] for name, words in runs.items()}
    command = (sys.executable, pretended.__file__, str(folder))
    done = subprocess.run(command, input=json.dumps(commands), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_keeps_to_its_device(name, ended):
    folder, codes = ended
    assert codes[name] == 0, (folder / f"{name}.log").read_text()
    assert results(folder / name)["provenance"]["device"] == "pretend:0"


def test_a_saved_model_keeps_to_its_device(ended):
    folder, codes = ended
    assert codes["evaluate"] == 0, (folder / "evaluate.log").read_text()
    assert results(folder / "evaluate")["metrics"] == results(folder / "accuquant")["metrics"]
