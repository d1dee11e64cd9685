"""A whole AccuQuant run on digits: what it leaves, that it leaves the same bits again, and what is made of its
model.
"""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from run_files import results, status
from tiny import TINY_ACCUQUANT, TINY_PTQ

from quantlab.run.state import load_model, save_model

CONTRACT = (
    "config.yaml",
    ".hydra/overrides.yaml",
    "status.json",
    "results.json",
    "layers.json",
    "metrics.jsonl",
    "report.md",
    "run.log",
)


@pytest.fixture(scope="module")
def accuquant_run(tmp_path_factory, cache):
    """One finished AccuQuant run and what it printed on stdout."""
    import contextlib
    import io

    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("runs") / "accuquant"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*TINY_ACCUQUANT, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory, out.getvalue()


def test_accuquant_leaves_what_the_contract_says(accuquant_run):
    directory, stdout = accuquant_run
    assert all((directory / name).is_file() for name in CONTRACT)
    assert status(directory) == {"state": "completed", "error": None, "exit_code": 0}
    found = results(directory)
    assert (found["schema"], found["method"], found["task"], found["model"]) == (
        1,
        "accuquant",
        "digits_generation",
        "ddim",
    )
    assert found["bits"] == {"weight": 4, "activation": 8, "gradient": 32}
    assert (
        set(found["metrics"])
        == {"fid_to_fp32", "fid", "psnr", "ssim", "mse_to_fp32", "mse_to_fp32_median"}
        == set(found["baseline"]["ranges_only"])
        == set(found["baseline"]["uncorrected"])
    )
    assert found["protocol"]["samples"] == 24 and found["protocol"]["fid_features"] == "task_classifier"
    # 6 iterations over single steps, 12 over groups of 3: all but the last are walked without a graph first, 1 pass,
    # and all with one, 3
    assert found["cost"]["network_evaluations"] == 3 * 6 + (2 * 1 + 3 * 3) * 12 and found["cost"]["steps"] == 18
    assert found["cost"]["peak_memory_bytes"] > 1e8 and len(found["provenance"]["config_sha256"]) == 64
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 19)) and list(rows[0])[0] == "step"
    assert [row["learning_rate"] for row in rows[:7:6]] == [0.02, 0.002]  # both parts begin with their own rate
    assert "ranges only" in stdout and "accuquant" in stdout and "fid_to_fp32" in stdout


def test_a_run_says_how_much_it_quantized(accuquant_run):
    directory, stdout = accuquant_run
    layers = json.loads((directory / "layers.json").read_text())
    for key in ("parameters", "multiplications"):
        assert sum(entry[key] for entry in layers.values()) == pytest.approx(1)
    kept = {name for name, entry in layers.items() if "reason" in entry}
    assert {layers[name]["reason"] for name in kept} == {"kind"} and {layers[name]["kind"] for name in kept} == {
        "GroupNorm",
        "biases",
    }
    assert (layers["conv_in"]["weight"], layers["mid_block.attentions.0.to_q"]["weight"]) == (8, 4)
    assert layers["mid_block.attentions.0.processor (softmax value)"]["input"] == 8
    share = results(directory)["quantized"]
    assert share["weights"] == pytest.approx(1 - sum(layers[name]["parameters"] for name in kept)) and share[
        "multiplications"
    ] == pytest.approx(1)
    said = f"W4A8: {100 * share['weights']:.1f} % of weights, 100 % of multiplications (conv_in, conv_out in W8A8)"
    assert (
        stdout.startswith(f"{said}, ddim on digits_generation")
        and f"| {said} |" in (directory / "report.md").read_text()
    )


def test_pictures_and_report(accuquant_run):
    directory, _ = accuquant_run
    report = (directory / "report.md").read_text()
    for name in (
        "figures/denoising_error.png",
        "figures/fid_along_denoising.png",
        "figures/training.png",
        "samples/comparison.png",
    ):
        assert name in report
        assert np.asarray(Image.open(directory / name).convert("L")).std() > 5  # not a blank sheet
    assert "quantlab method=accuquant" in report and "method=sample" in report
    series = json.loads((directory / "figures/denoising.json").read_text())
    assert set(series["curves"]) == {"ranges only", "uncorrected", "accuquant"} and len(series["timesteps"]) == 6
    for curve in series["curves"].values():
        assert len(curve["step_error"]) == len(curve["accumulated_error"]) == 6
        # the first step starts from the same noise: alone and accumulated are one thing there
        assert curve["accumulated_error"][0] == pytest.approx(curve["step_error"][0], rel=1e-4)
        assert curve["accumulated_error"][-1] > curve["step_error"][-1]


def test_same_command_same_bits(accuquant_run, quantlab, tmp_path):
    directory, _ = accuquant_run
    code, _, _ = quantlab(*TINY_ACCUQUANT, f"output_dir={tmp_path / 'again'}")
    assert code == 0
    again = results(tmp_path / "again")
    assert again["metrics"] == results(directory)["metrics"] and again["baseline"] == results(directory)["baseline"]
    assert again["provenance"]["config_sha256"] == results(directory)["provenance"]["config_sha256"]
    assert (tmp_path / "again/metrics.jsonl").read_bytes() == (directory / "metrics.jsonl").read_bytes()


def test_a_sweep_of_seeds_differs(accuquant_run, quantlab, tmp_path):
    code, _, _ = quantlab(*TINY_ACCUQUANT, "seed=1", f"output_dir={tmp_path / 'seed1'}")
    assert code == 0
    assert results(tmp_path / "seed1")["metrics"] != results(accuquant_run[0])["metrics"]


def test_sampling_repeats_the_runs_images_without_calibration(accuquant_run, quantlab, tmp_path):
    directory, _ = accuquant_run
    code, _, err = quantlab(
        "method=sample", f"method.run={directory}", "method.samples=24", f"output_dir={tmp_path / 's'}"
    )
    assert code == 0, err
    assert results(tmp_path / "s")["metrics"]["fid"] == pytest.approx(results(directory)["metrics"]["fid"], rel=1e-6)
    assert (tmp_path / "s/layers.json").read_bytes() == (directory / "layers.json").read_bytes()
    pixels = np.load(tmp_path / "s/samples/samples.npy")
    assert pixels.shape == (24, 8, 8, 1) and pixels.dtype == np.uint8 and pixels.std() > 10


def test_a_model_that_is_not_finite_is_not_sampled_from_nor_trained_on(accuquant_run, quantlab, tmp_path):
    shutil.copytree(accuquant_run[0], tmp_path / "broken")
    path = tmp_path / "broken/checkpoints/model"
    code, _, err = quantlab(*TINY_ACCUQUANT, f"model.weights={tmp_path / 'broken'}", f"output_dir={tmp_path / 'out'}")
    assert code == 2 and "holds a model quantized to integers, allowed: weights in full precision" in err, err
    tensors, facts = load_model(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = float("nan")
    save_model(path, tensors, facts)
    code, _, err = quantlab("method=sample", f"method.run={tmp_path / 'broken'}", f"output_dir={tmp_path / 'out'}")
    assert code == 2 and f"method.run: {path}.safetensors holds NaN or infinity in {name}" in err, err
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_evaluating_the_run_repeats_its_numbers(accuquant_run, quantlab, tmp_path):
    directory, _ = accuquant_run
    code, _, err = quantlab("method=evaluate", f"method.run={directory}", "device=cpu", f"output_dir={tmp_path / 'e'}")
    assert code == 0, err
    ran, found = results(directory), results(tmp_path / "e")
    assert found["metrics"] == ran["metrics"] and found["protocol"] == ran["protocol"] and found["bits"] == ran["bits"]
    assert found["baseline"] == {"full_precision": ran["baseline"]["full_precision"]}
    code, _, err = quantlab(
        "method=evaluate",
        f"method.run={directory}",
        "device=cpu",
        "model.weights=/nowhere",
        f"output_dir={tmp_path / 'f'}",
    )
    assert code == 2 and "model.weights: no such file: /nowhere" in err


def test_saved_model_holds_integers(accuquant_run):
    tensors, facts = load_model(accuquant_run[0] / "checkpoints/model")
    codes = {name: tensor for name, tensor in tensors.items() if name.endswith(".codes")}
    assert codes and facts["group_size"] == 3
    for name, tensor in codes.items():
        layer, _, _ = name.partition(".weight_quantizer.")
        weight = facts["layers"][layer]["weight"]
        assert weight["bits"] == (8 if layer in ("conv_in", "conv_out") else 4)  # first and last layer
        if "split" not in weight:
            packed = math.ceil(math.prod(weight["shape"]) * weight["bits"] / 8)
            assert str(tensor.dtype) == "torch.uint8" and len(tensor) == packed
    assert not any("rounding" in name for name in tensors)


@pytest.mark.parametrize("flipped", [False, True])
def test_damaged_model_is_refused_in_one_line(accuquant_run, quantlab, tmp_path, flipped):
    broken = tmp_path / "broken"
    shutil.copytree(accuquant_run[0], broken)
    file = broken / "checkpoints/model.safetensors"
    data = bytearray(file.read_bytes())
    if flipped:
        data[len(data) // 2] ^= 1
    file.write_bytes(data if flipped else data[:-100])
    code, _, err = quantlab("method=sample", f"method.run={broken}", f"output_dir={tmp_path / 'out'}")
    lines = [line for line in err.splitlines() if "error" in line]
    assert code == 1 and len(lines) == 1 and "model.safetensors" in lines[0] and "Traceback" not in err
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_ranges_only_is_the_same_whoever_measures_it(accuquant_run, quantlab, tmp_path):
    words = ("method=ptq", *TINY_PTQ, "method.reconstruction=none", "method.bias_correction=none")
    code, _, _ = quantlab(*words, f"output_dir={tmp_path / 'none'}")
    assert code == 0
    assert results(tmp_path / "none")["metrics"] == results(accuquant_run[0])["baseline"]["ranges_only"]
