"""A folder of images without classes: everything but FID with task.evaluation.features=none, and what needs no FID
asks for none.
"""

import json

import numpy as np
import pytest
from PIL import Image
from run_files import results
from sklearn.datasets import load_digits
from tiny import PLAIN, TINY, TINY_ACCUQUANT

PAIRED = {"mse_to_fp32", "mse_to_fp32_median", "psnr", "ssim"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """words that make `folder` the task"""
    path = tmp_path_factory.mktemp("images")
    for index, image in enumerate(load_digits().images[:40]):
        Image.fromarray((image * 15.9375).astype(np.uint8)).save(path / f"{index}.png")
    return "task=image_folder_generation", f"data_dir={path}", "task.channels=1", "task.image_size=8"


def test_all_but_fid(folder, quantlab, tmp_path):
    def run(name, *words):
        code, out, err = quantlab(*words, f"output_dir={tmp_path / name}")
        assert code == 0, err
        assert "task_classifier" not in out + err and "FID" not in out + err
        return results(tmp_path / name), err

    found, err = run(
        "accuquant",
        *TINY_ACCUQUANT,
        *PLAIN,
        "method.initialization.iterations=1",
        "method.iterations=2",
        *folder,
        "task.evaluation.features=none",
    )
    assert set(found["metrics"]) == PAIRED == set(found["baseline"]["ranges_only"]) and set(found["baseline"]) == {
        "ranges_only",
        "uncorrected",
    }
    assert not {"fid_features", "reference_images"} & found["protocol"].keys()
    assert (tmp_path / "accuquant/figures/denoising_error.png").is_file()
    assert not (tmp_path / "accuquant/figures/fid_along_denoising.png").exists()
    curves = json.loads((tmp_path / "accuquant/figures/denoising.json").read_text())["curves"]
    assert all(set(curve) == {"step_error", "accumulated_error"} for curve in curves.values())
    # the denoiser has learned nothing in 12 steps, and that is said before it is quantized
    assert "far from the images of task=image_folder_generation" in err.split("accuquant:")[0]

    run_of = f"method.run={tmp_path / 'accuquant'}"
    assert run("evaluated", "method=evaluate", run_of, "device=cpu")[0]["metrics"] == found["metrics"]
    alone = run("alone", "method=evaluate", run_of, "device=cpu", f"cache_dir={tmp_path / 'empty'}")[0]
    sampled = run(
        "sampled", "method=sample", run_of, "method.samples=24", "device=cpu", f"cache_dir={tmp_path / 'empty'}"
    )[0]
    assert set(alone["metrics"]) == {"spectrum_ratio"} and sampled["metrics"] == alone["metrics"]


def test_pretraining_needs_no_feature_network_and_looks_at_samples(folder, quantlab, tmp_path):
    # features stays what it is by default: it is not asked for
    code, _, err = quantlab("method=pretrain", *TINY, *folder, f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    found = results(tmp_path / "run")
    assert set(found["metrics"]) == {"loss", "spectrum_ratio"} and found["metrics"]["spectrum_ratio"] > 1.5
    assert "train longer than model.pretrain.steps=12" in err
    assert np.asarray(Image.open(tmp_path / "run/samples/samples.png")).std() > 20
    code, _, err = quantlab(
        "method=evaluate",
        f"method.run={tmp_path / 'run'}",
        "task.evaluation.features=none",
        "device=cpu",
        f"output_dir={tmp_path / 'evaluated'}",
    )
    assert code == 0, err
    assert results(tmp_path / "evaluated")["metrics"] == found["metrics"]


def test_fid_without_labels_is_refused_with_what_to_type(folder, quantlab, tmp_path):
    for words in (TINY_ACCUQUANT, ("method=evaluate", *TINY)):
        code, _, err = quantlab(*words, *folder, f"output_dir={tmp_path / 'run'}")
        lines = [line for line in err.splitlines() if "error" in line]
        assert code == 2 and len(lines) == 1 and lines[0].endswith("type task.evaluation.features=none"), err
    assert not (tmp_path / "run/config.yaml").exists()
