"""Whole runs from the command line, on real digits: what a run leaves, and that it leaves the same bits again."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from run_files import results
from tiny import TINY, TINY_ACCUQUANT, TINY_PTQ

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


def status(directory):
    return json.loads((directory / "status.json").read_text())


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
        == {"fid_to_fp32", "fid", "psnr", "ssim", "mse_to_fp32"}
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


def test_a_shorter_run_shortens_both_parts_alike(quantlab, tmp_path):
    assert quantlab(*TINY_ACCUQUANT, "trainer.max_steps=6", f"output_dir={tmp_path / 'run'}")[0] == 0
    assert results(tmp_path / "run")["cost"]["network_evaluations"] == 3 * 2 + 11 * 4


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


@pytest.mark.parametrize("reconstruction", ["none", "step", "block"])
def test_baselines(reconstruction, quantlab, tmp_path):
    directory = tmp_path / reconstruction
    code, out, err = quantlab(
        "method=ptq",
        *TINY_PTQ,
        f"method.reconstruction={reconstruction}",
        "method.network_evaluations=180",
        f"output_dir={directory}",
    )
    assert code == 0, err
    found = results(directory)
    # 18 blocks, 6 steps, one batch of 4: 6 * 19 = 114 passes collect, the other 66 are 22 iterations of each block
    spent = {"none": 0, "step": 180, "block": 180}[reconstruction]
    assert found["cost"]["network_evaluations"] == spent
    assert ("ranges_only" in found["baseline"]) == (reconstruction != "none")


def test_ranges_only_is_the_same_whoever_measures_it(accuquant_run, quantlab, tmp_path):
    words = ("method=ptq", *TINY_PTQ, "method.reconstruction=none", "method.bias_correction=none")
    code, _, _ = quantlab(*words, f"output_dir={tmp_path / 'none'}")
    assert code == 0
    assert results(tmp_path / "none")["metrics"] == results(accuquant_run[0])["baseline"]["ranges_only"]


def test_block_reconstruction_lowers_what_it_minimises(quantlab, tmp_path):
    # 3-bit activations on min-max ranges leave much to gain; a loss of 1 is what those ranges give
    code, _, _ = quantlab(
        "method=ptq",
        *TINY_PTQ,
        "method.reconstruction=block",
        "method.network_evaluations=174",
        "method.learn.rounding=false",
        "method.learning_rate.activation_scales=0.1",
        "quantizer.activation.bits=3",
        "quantizer.activation.scale_search=min_max",
        *(f"quantizer.{end}={{weight_bits: 4, activation_bits: 3}}" for end in ("first_layer", "last_layer")),
        f"output_dir={tmp_path / 'b'}",
    )
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "b/metrics.jsonl").read_text().splitlines()]
    # 114 passes collect, 60 are 20 iterations per unit
    units = [rows[start : start + 20] for start in range(0, len(rows), 20)]
    ends = [sum(row["loss"] for row in unit[-5:]) / 5 for unit in units]
    assert len(units) == 18 and sum(ends) / len(ends) < 0.9


def test_block_reconstruction_that_is_cut_short_still_reaches_every_unit(quantlab, tmp_path):
    code, _, err = quantlab(
        "method=ptq",
        *TINY_PTQ,
        "method.reconstruction=block",
        "method.network_evaluations=174",
        "trainer.max_steps=20",
        f"output_dir={tmp_path / 'b'}",
    )
    assert code == 0, err
    # all 18 units were collected for
    assert results(tmp_path / "b")["cost"]["network_evaluations"] == round(114 + 20 * 3 / 18)


@pytest.mark.parametrize(
    "words",
    [
        ("method.gradient=exact", "model.sampler.eta=0.5"),
        ("method.gradient=bptt", "method.group_order=sequential", "method.loss=l1"),
        ("model.sampler.steps=7", "method.group_size=3", "quantizer.activation.scales=shared"),
        ("model.sampler.steps=60", "model.sampler.spacing=quadratic", "method.group_size=2", "method.iterations=3"),
        ("quantizer.weight.bits=32", "quantizer.activation.bits=6", "quantizer.activation.symmetric=true"),
        ("quantizer.weight.granularity=tensor", "quantizer.weight.scale_search=min_max", "quantizer.attention=false"),
    ],
    ids=["exact-eta", "bptt-sequential-l1", "odd-group-shared", "quadratic-no-ops", "activations-only", "per-tensor"],
)
def test_other_settings_run_whole(words, quantlab, tmp_path):
    code, _, err = quantlab(
        *TINY_ACCUQUANT,
        "method.initialization.iterations=2",
        "method.iterations=4",
        *words,
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, err
    assert all(np.isfinite(value) for value in results(tmp_path / "run")["metrics"].values())


def test_pretrain_is_found_in_the_cache(quantlab, tmp_path):
    words = ("method=pretrain", *TINY, "model.pretrain.steps=5", "seed=3")
    assert quantlab(*words, f"output_dir={tmp_path / 'first'}")[0] == 0
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'second'}")
    assert code == 0 and "found in the cache" in err
    first, second = results(tmp_path / "first"), results(tmp_path / "second")
    assert first["metrics"] == second["metrics"]
    assert (first["cost"]["steps"], second["cost"]["steps"]) == (5, 0)


def test_training_from_nothing_gives_the_same_bits(quantlab, tmp_path):
    # Caches of their own: a shared one would hand the first run's weights to the second
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        code, _, err = quantlab(
            "method=pretrain",
            *TINY,
            "model.pretrain.steps=3",
            f"seed={seed}",
            f"cache_dir={tmp_path / name / 'cache'}",
            f"output_dir={tmp_path / name / 'run'}",
        )
        assert code == 0, err
        weights.append((tmp_path / name / "run/checkpoints/model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_weights_from_a_file_and_of_another_architecture(quantlab, tmp_path):
    words = ("method=pretrain", *TINY, "model.pretrain.steps=5", "seed=3")
    assert quantlab(*words, f"output_dir={tmp_path / 'p'}")[0] == 0
    weights = tmp_path / "p/checkpoints/model.safetensors"
    code, _, err = quantlab(
        *TINY_ACCUQUANT, "method.iterations=2", f"model.weights={weights}", f"output_dir={tmp_path / 'a'}"
    )
    assert code == 0, err
    code, _, err = quantlab(
        *TINY_ACCUQUANT,
        "model.unet.block_out_channels=[16,16]",
        f"model.weights={weights}",
        f"output_dir={tmp_path / 'b'}",
    )
    assert code == 2 and "another architecture" in err and "Traceback" not in err
