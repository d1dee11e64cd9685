"""quantlab.load gives the module that a run left, from its directory or a file alone, with neither config nor data."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import TINY

import quantlab as package
from quantlab.errors import CorruptFileError, RequestError
from quantlab.models.model_file import tensors_of
from quantlab.models.quantized_network import WalkedSteps
from quantlab.quantizers.calibration import grouped_activations
from quantlab.run.state import load_state

CLASSIFIER = ("task=digits", "device=cpu", "model.pretrain.steps=2", "trainer.max_steps=2")
RESNET = (*CLASSIFIER, "model=resnet20", "model.depth=8", "model.width=4")
DENOISER = (*TINY, "task.evaluation.features=none", "model.pretrain.steps=2", "task.evaluation.samples=8")
PTQ = (
    "method.calibration.trajectories=4",
    "method.calibration.range_samples=2",
    "method.batch_size=2",
    "method.group_size=4",
)
RUNS = {
    "qat": ("method=qat", *RESNET, "quantizer=lsq", "method.schedule=learning_rate"),
    "low_bit": ("method=low_bit", *RESNET),
    "reactnet": ("method=qat", *RESNET, "quantizer=reactnet", "quantizer.weight.bits=1", "quantizer.activation.bits=1"),
    "timm": ("method=pretrain", *CLASSIFIER, "model=timm", "model.architecture=test_efficientnet"),
    "pretrain": ("method=pretrain", *DENOISER),
    "accuquant": ("method=accuquant", *DENOISER, *PTQ, "method.initialization.iterations=1", "method.iterations=2"),
}


@pytest.fixture
def made(quantlab, tmp_path, monkeypatch):
    """made(name): the directory of that run, and the network that it had at its end."""
    from quantlab import runner

    own = []
    describe = runner.describe_model
    monkeypatch.setattr(
        runner, "describe_model", lambda config, task, network: own.append(network) or describe(config, task, network)
    )

    def run(name):
        code, _, err = quantlab(*RUNS[name], f"output_dir={tmp_path / 'run'}")
        assert code == 0, err
        return tmp_path / "run", own[-1].eval()

    return run


def same(a, b):
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def header_of(file):
    with safe_open(file, "pt") as opened:
        return opened.metadata()


@pytest.mark.parametrize("name", ["qat", "low_bit", "timm", pytest.param("reactnet", marks=pytest.mark.slow)])
def test_a_classifier_gives_the_logits_of_its_run(name, made):
    directory, own = made(name)
    (directory / "config.yaml").unlink()
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    loaded = package.load(directory)
    assert torch.equal(torch.get_rng_state(), before) and not loaded.training
    with torch.no_grad():
        assert same(loaded(images), own(images))


def assert_same_at_every_step(loaded, own, timesteps, group_size, bias_steps=()):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for i, t in enumerate(timesteps):
        for quantizer in grouped_activations(own):
            quantizer.pointer.index = i // group_size
        with torch.no_grad():
            expected = own(x, t).sample
            if i in bias_steps:
                expected += own.output_bias[bias_steps.index(i)]
            assert same(loaded(x, t).sample, expected)
            assert same(loaded(x, torch.full((3,), t)).sample, expected)


def test_a_denoiser_gives_the_outputs_of_its_run(made):
    directory, own = made("pretrain")
    assert_same_at_every_step(package.load(directory), own, range(0, 1000, 333), 1)


def test_a_quantized_denoiser_does_at_every_step_and_its_file_alone_says_what_it_is(made, tmp_path):
    directory, own = made("accuquant")
    file = shutil.copy(directory / "checkpoints" / "model.safetensors", tmp_path / "alone.safetensors")
    facts = json.loads(header_of(file)["quantlab"])
    assert_same_at_every_step(package.load(file), own, facts["timesteps"], 4, facts["bias_steps"])
    twin = load_state(directory / "checkpoints" / "model")[1]
    assert twin == {**facts, "bound": twin["bound"]}
    assert facts["architecture"]["class"] == "UNet2DModel" and facts["run_format"] == 3
    assert facts["bias_steps"] == [3, 5] and (own.output_bias != 0).all((1, 2, 3)).all()
    assert facts["group_size"] == 4 and len(facts["timesteps"]) == 6
    assert facts["quantizer"]["name"] == "uniform_affine"
    assert facts["layers"]["conv_in"]["bits"] == {"weight": 8, "input": 8, "gradient": 32}
    inner = facts["layers"]["mid_block.resnets.0.conv1"]
    assert inner["weight"] == {
        "quantizer": "uniform_affine",
        "bits": 4,
        "axis": 0,
        "shape": [16, 16, 3, 3],
        "grid": [0, 15],
    }
    assert inner["bits"]["weight"] == 4
    assert load_file(file).keys() == tensors_of(own).keys()


def test_what_says_not_what_it_is_is_refused_in_one_line(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        package.load(tmp_path / "nowhere")
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(RequestError, match="does not say what network it holds") as caught:
        package.load(tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)
    said = {"run_format": 9, "architecture": {}}
    save_file({"weight": torch.ones(2)}, tmp_path / "newer.safetensors", {"quantlab": json.dumps(said)})
    with pytest.raises(RequestError, match="format 9, but this version reads 1 to 3; a newer quantlab reads it"):
        package.load(tmp_path / "newer.safetensors")
    foreign = {"run_format": 2, "architecture": {"library": "quantlab", "model": {"_target_": "os.system"}, "task": {}}}
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign.safetensors", {"quantlab": json.dumps(foreign)})
    with pytest.raises(CorruptFileError, match="os.system, which may not be instantiated"):
        package.load(tmp_path / "foreign.safetensors")


def groups(timesteps, group_size, *calls):
    walked, found = WalkedSteps(timesteps, group_size), []
    for t in calls:
        walked.call(t)
        found.append(walked.pointer.index)
    return found


def test_scales_are_those_of_the_nearest_step():
    calls = (900, 751, 749, 450.5, 449, torch.tensor(10), torch.tensor([900, 600]))
    assert groups([900, 600, 300, 0], 2, *calls) == [0, 0, 0, 0, 1, 1, 0]
    with pytest.raises(ValueError, match="have different activation scales"):
        groups([900, 600, 300, 0], 2, torch.tensor([900, 0]))


def test_steps_at_one_timestep_come_one_after_the_other():
    walk = (900, 600, torch.tensor([600, 600]), 300)  # of PNDM
    assert groups([900, 600, 600, 300], 1, *walk, *walk) == [0, 1, 2, 3] * 2


def test_import_quantlab_is_light_and_load_is_there():
    code = "import sys, quantlab; print(callable(quantlab.load), 'torch' in sys.modules, 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True False False\n"
