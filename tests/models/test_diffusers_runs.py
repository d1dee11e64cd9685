"""A loaded denoiser in runs: its cache keys, and whole runs from a directory."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers_files import WEIGHTS, changed_tensors, configured, load
from safetensors.torch import load_file

from quantlab.config import load_config
from quantlab.errors import RunError
from quantlab.methods.generation_evaluator import fetch_trajectories
from quantlab.methods.pretrain import Pretrain
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.run.cache import Cache
from quantlab.run.processes import ALONE


class Recipe(SimpleNamespace):
    def model_dump(self, **_):
        return {"path": self.path, "weights": None, "sampler": {}, "pretrain": {"steps": 1}}


def pretrain_key(path):
    section = Recipe(path=str(path), pretrain=SimpleNamespace(steps=1, batch_size=1, seed=0))
    task = SimpleNamespace(dataset=lambda: range(10), collate=list, workers=0, fingerprint=lambda: "data", name="task")
    config = SimpleNamespace(model=section, task=task, trainer=SimpleNamespace(mixed_precision="no", drop_last=True))
    return Pretrain(None, SimpleNamespace(config=config, task=task, model=load(path))).cache_facts(1)


def test_weights_trained_further_are_keyed_by_their_source(directory, tmp_path):
    before = pretrain_key(directory)
    assert pretrain_key(shutil.copytree(directory, tmp_path / "elsewhere")) == before
    seen = [before]
    for change in (
        changed_tensors(lambda tensors: tensors["conv_in.bias"].add_(1)),
        configured("unet/config.json", freq_shift=1),
        configured("scheduler/scheduler_config.json", beta_end=0.01),
    ):
        change(directory)
        seen.append(pretrain_key(directory))
    assert all(one not in seen[:index] for index, one in enumerate(seen))


def test_walks_are_keyed_by_weights_and_config(directory, tmp_path):
    evaluation = SimpleNamespace(batch_size=4)

    def walks():
        task = SimpleNamespace(channels=1, image_size=8, evaluation=evaluation)
        context = SimpleNamespace(
            model=load(directory),
            task=task,
            cache=Cache(tmp_path / "cache"),
            progress=lambda batches, _: batches,
            device="cpu",
            processes=ALONE,
        )
        return fetch_trajectories(context, 2, 0, [2] * 5, "walks").images

    seen = [walks()]
    assert torch.equal(walks(), seen[0])
    for change in (
        changed_tensors(lambda tensors: tensors["conv_in.bias"].add_(1)),
        configured("unet/config.json", freq_shift=1),
        configured("scheduler/scheduler_config.json", beta_end=0.01),
    ):
        change(directory)
        seen.append(walks())
        assert not torch.equal(seen[-1], seen[-2])
    assert len(list((tmp_path / "cache" / "trajectories").iterdir())) == 4


def test_a_run_is_not_resumed_with_another_full_precision_model():
    with pytest.raises(RunError, match="not the one that this run started with"):
        DiffusionPTQ.load_state_dict(SimpleNamespace(full_precision_sha256="now"), {"full_precision": "then"})


SMALL = (
    "model=ddpm_cifar10",
    "task=digits_generation",
    "model.sampler.steps=2",
    "task.evaluation.samples=8",
    "task.feature_network.pretrain.steps=4",
    "task.feature_network.width=8",
    "task.evaluation.step_error_samples=2",
    "device=cpu",
)
SMALL_PTQ = (
    *SMALL,
    "method=ptq",
    "method.reconstruction=none",
    "method.calibration.trajectories=4",
    "method.calibration.range_samples=2",
    "method.batch_size=2",
    "method.group_size=1",
)


def test_a_loaded_model_is_quantized_and_not_trained(quantlab, saved_denoiser, tmp_path, monkeypatch):
    monkeypatch.chdir(saved_denoiser.parent)
    code, _, err = quantlab(*SMALL_PTQ, f"model.path={saved_denoiser.name}", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert load_config(tmp_path / "run").model.path == str(saved_denoiser)  # wherever it is resumed from
    assert (
        f"full-precision ddpm_cifar10: {saved_denoiser / 'unet' / WEIGHTS}"
        in (tmp_path / "run" / "run.log").read_text()
    )
    assert "training ddpm_cifar10" not in err


def test_further_training_with_pretrain(quantlab, directory, tmp_path):
    words = (
        "method=pretrain",
        *SMALL,
        "model.pretrain.steps=2",
        "model.pretrain.batch_size=4",
        f"model.path={directory}",
    )
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'run'}")
    assert code == 0 and f"training goes on from {directory}" in err, err
    trained = load_file(tmp_path / "run" / "checkpoints" / "model.safetensors")
    assert not torch.equal(trained["conv_in.weight"], load_file(directory / "unet" / WEIGHTS)["conv_in.weight"])
    assert "found in the cache" in quantlab(*words, f"output_dir={tmp_path / 'again'}")[2]


def test_a_wrong_path_is_found_before_the_data_are_read(quantlab, tmp_path, monkeypatch):
    monkeypatch.setattr("quantlab.tasks.datasets.load_digits", lambda: pytest.fail("the data were read"))
    code, _, err = quantlab(*SMALL_PTQ, "model.path=no_such_place", f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "no such directory" in err and not (tmp_path / "run" / "config.yaml").exists()
