"""Each kind of pipeline: calibrated, saved, loaded back into the pipeline, sampled from, resumed and evaluated."""

import shutil

import numpy as np
import pytest
from run_files import results

import quantlab as package
from quantlab.run.directory import RunDirectory

SMALL = (
    "model=pipeline",
    "model.sampler.steps=2",
    "task.evaluation.samples=2",
    "task.evaluation.step_error_samples=2",
    "method.calibration.trajectories=2",
    "method.calibration.range_samples=2",
    "method.batch_size=2",
    "method.group_size=1",
    "method.initialization.iterations=2",
    "method.iterations=2",
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
    "quantizer.weight.bits=8",
    "trainer.checkpoint_every=2",
    "device=cpu",
)
CALLS = {
    "ddpm": {"batch_size": 1},
    "ldm": {"batch_size": 1},
    "dit": {"class_labels": [3]},
    "pixart": {"prompt": ["a cat"], "use_resolution_binning": False, "max_sequence_length": 300},
    "sd": {"prompt": ["a cat"]},
    "sdxl": {"prompt": ["a cat"]},
}


@pytest.mark.parametrize("kind", CALLS)
def test_calibrated_saved_loaded_sampled_resumed_and_evaluated(kind, pipelines, quantlab, tmp_path):
    run, again = tmp_path / "run", tmp_path / "again"
    code, out, err = quantlab("method=accuquant", *SMALL, f"model.path={pipelines(kind)}", f"output_dir={run}")
    assert code == 0, err
    found = results(run)["metrics"]
    assert found["mse_to_fp32"] < 0.05 and set(found) == {"psnr", "ssim", "mse_to_fp32"}

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

    words = ("method=sample", f"method.run={run}", "method.samples=2")
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'drawn'}")
    assert code == 0, err
    drawn = np.load(tmp_path / "drawn" / "samples" / "samples.npy")
    assert drawn.shape == ((2, 8, 8, 3) if kind == "ddpm" else (2, 16, 16, 3))
    code, _, err = quantlab("method=evaluate", f"method.run={run}", f"output_dir={tmp_path / 'judged'}")
    assert code == 0, err
    assert results(tmp_path / "judged")["metrics"] == found

    pipeline, part = into_its_pipeline(pipelines(kind), package.load(run))
    image = pipeline(**CALLS[kind], num_inference_steps=2, output_type="np").images
    assert np.isfinite(image).all() and image.std() > 0


def both(checkpoint):
    return checkpoint, checkpoint.with_suffix(".safetensors")


def into_its_pipeline(directory, network):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(directory, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    assert type(getattr(pipeline, part)) is type(network)
    setattr(pipeline, part, network)
    return pipeline, part
