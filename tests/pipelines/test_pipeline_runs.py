"""Each kind of pipeline: calibrated, saved, loaded back into the pipeline, sampled from, resumed and evaluated."""

import shutil

import numpy as np
import pytest
import torch
from run_files import results
from tiny import TINY_PIPELINE

import quantlab as package
from quantlab.run.directory import RunDirectory
from quantlab.run.state import load_state

own_images = pytest.importorskip("own_images")

SMALL = (
    *TINY_PIPELINE,
    "method.group_size=1",
    "method.initialization.iterations=2",
    "method.iterations=2",
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
    "quantizer.weight.bits=8",
    "trainer.checkpoint_every=2",
    "device=cpu",
)
PRODUCTS = {"flux": ("quantizer.policy=[{modules: processor, weight_bits: 8, activation_bits: 8}]",)}
KINDS = ("ddpm", "ldm", "dit", "pixart", "sd", "sdxl", "sd3", "flux")
SEED = 1234  # of the evaluation's noise


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_saved_loaded_sampled_resumed_and_evaluated(kind, pipelines, quantlab, tmp_path, monkeypatch):
    run, again = tmp_path / "run", tmp_path / "again"
    words = (*SMALL, f"model.path={pipelines(kind)}", *own_images.our_words(kind), *PRODUCTS.get(kind, ()))
    code, out, err = quantlab("method=accuquant", *words, f"output_dir={run}")
    assert code == 0, err
    found = results(run)["metrics"]
    assert found["mse_to_fp32"] < 0.05 and set(found) == {"psnr", "ssim", "mse_to_fp32", "mse_to_fp32_median"}

    # resumed from its middle, as if it had been killed there
    shutil.copytree(run, again)
    directory = RunDirectory(again)
    first, *later = sorted(directory.checkpoints.glob("step-*.json"))
    for path in (directory.results_path, directory.model_path, *(file for one in later for file in both(one))):
        path.unlink()
    assert later and first.name == "step-00000002.json"
    directory.write_status("interrupted")
    code, _, err = quantlab(f"resume={again}")
    assert code == 0, err
    assert results(again)["metrics"] == found

    sampled = ("method=sample", f"method.run={run}", "method.samples=2")
    code, _, err = quantlab(*sampled, f"output_dir={tmp_path / 'drawn'}")
    assert code == 0, err
    drawn = np.load(tmp_path / "drawn" / "samples" / "samples.npy")
    assert drawn.shape == ((2, 8, 8, 3) if kind == "ddpm" else (2, 16, 16, 3))
    code, _, err = quantlab("method=evaluate", f"method.run={run}", f"output_dir={tmp_path / 'judged'}")
    assert code == 0, err
    assert results(tmp_path / "judged")["metrics"] == found

    # what the run left, as diffusers saves and loads it, in the pipeline in place of its own
    denoiser, pipeline = own_images.open_denoiser(pipelines(kind), *words[2:]), own_images.loaded(pipelines(kind))
    part, network = "unet" if hasattr(pipeline, "unet") else "transformer", package.load(run)
    network.save_pretrained(tmp_path / part)
    state, network = network.state_dict(), type(getattr(pipeline, part)).from_pretrained(tmp_path / part)
    assert state.keys() == network.state_dict().keys() and "output_bias" in state
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    setattr(pipeline, part, network)
    condition = denoiser.condition(2, SEED)
    own = own_images.draw(pipeline, kind, denoiser, condition, SEED, monkeypatch, num_inference_steps=2)
    assert np.abs((own * 255).round() - drawn).max() <= 1


@pytest.mark.slow
def test_in_float16_gradients_are_scaled(pipelines, quantlab, tmp_path):
    run, words = tmp_path / "run", (*SMALL, f"model.path={pipelines('ddpm')}", "model.compute=float16")
    code, _, err = quantlab("method=accuquant", *words, f"output_dir={run}")
    assert code == 0, err
    assert 0 < results(run)["metrics"]["mse_to_fp32"] < 0.05
    scaler = load_state(RunDirectory(run).checkpoints / "step-00000004")[0]["method"]["scaler"]
    assert scaler["scale"] > 1 and scaler["_growth_tracker"] >= 2  # updates without an overflow


def both(checkpoint):
    return checkpoint, checkpoint.with_suffix(".safetensors")
