"""Small runs on a GPU: every method, resumed to the same bits, in narrow precision, compiled, and their memory.

Each test is there twice: on `cuda`, marked gpu, and on `cpu`, where the same code shows that it works. `python
scripts/gpu_check.py` runs those of one device.
"""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from run_files import results, rows
from tiny import TINY_PIPELINE

from quantlab.config import catalog
from quantlab.run.directory import RunDirectory

sys.path[:0] = [str(Path(__file__).parents[2] / "scripts"), str(Path(__file__).parents[1] / "campaigns")]
import benchmark_accuquant_memory  # noqa: E402
import benchmark_stable_diffusion_memory as stable_diffusion  # noqa: E402
from own_process import GIB, in_process_of_its_own  # noqa: E402
from small_runs import SMALL  # noqa: E402

SHORT = {name: tuple(word for word in words if not word.startswith("device=")) for name, words in SMALL.items()}
ACCUQUANT = SHORT["accuquant"]
RUNS = {
    "pretrain": SHORT["pretrain_denoiser"],
    "accuquant": ACCUQUANT,
    "exact": (*ACCUQUANT, "method.gradient=exact", "quantizer.weight.rounding=adaround", "method.keep_graphs=auto"),
    "none": (*SHORT["ptq"], "method.reconstruction=none"),
    "step": (*SHORT["ptq"], "method.step_loss=output"),
    "block": (*SHORT["ptq"], "method.reconstruction=block", "method.network_evaluations=300"),
    "qat": SHORT["qat"],
    "low_bit": (*SHORT["low_bit"], "method.integer_check=true"),
    "supernet": SHORT["supernet"],
}


def on(device, *slow):
    """On the GPU, and on the CPU too; slow: the mark of tests that take long there."""
    return pytest.param(device, marks=[pytest.mark.gpu] if device == "cuda" else [*slow])


EITHER = [on("cpu"), on("cuda")]
CPU_IS_SLOW = [on("cpu", pytest.mark.slow), on("cuda")]


@pytest.fixture
def run(quantlab, tmp_path, device):
    """run(name, word, ...) -> the directory of a run on that device that has completed."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")

    def made(name, *words):
        directory = tmp_path / name
        code, _, err = quantlab(*words, f"device={device}", f"output_dir={directory}")
        assert code == 0, err
        assert results(directory)["provenance"]["device"].startswith(device)
        return directory

    return made


def test_which_runs_there_are():
    method = {"exact": "accuquant", "none": "ptq", "step": "ptq", "block": "ptq"}
    others = {"evaluate", "sample"}  # of a finished run, below
    assert {method.get(name, name) for name in RUNS} == set(catalog.options("method")) - others


@pytest.mark.parametrize("device", CPU_IS_SLOW)
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_every_method(name, run):
    assert results(run(name, *RUNS[name]))["metrics"]


@pytest.mark.parametrize("device", CPU_IS_SLOW)
def test_a_resumed_run_repeats_the_bits_and_others_read_it(run, quantlab, tmp_path):
    whole = run("whole", *ACCUQUANT)
    again = shutil.copytree(whole, tmp_path / "again")
    directory = RunDirectory(again)
    first, *later = sorted(directory.checkpoints.glob("step-*.json"))
    for path in (directory.results_path, directory.model_path):
        path.unlink()
    for path in later:
        path.unlink()
        path.with_suffix(".safetensors").unlink()
    directory.write_status("interrupted")
    assert first.name == "step-00000002.json"
    code, _, err = quantlab(f"resume={again}")
    assert code == 0, err
    found = results(whole)["metrics"]
    assert results(again)["metrics"] == found
    assert results(run("judged", "method=evaluate", f"method.run={whole}"))["metrics"] == found
    drawn = run("drawn", "method=sample", f"method.run={whole}", "method.samples=4")
    assert (drawn / "samples" / "samples.npy").is_file()


@pytest.mark.parametrize("device", CPU_IS_SLOW)
def test_the_first_loss_is_the_same_everywhere(run, quantlab, tmp_path):
    code, _, err = quantlab(*ACCUQUANT, "device=cpu", f"output_dir={tmp_path / 'there'}")
    assert code == 0, err
    here, there = rows(run("here", *ACCUQUANT)), rows(tmp_path / "there")
    assert here[0]["loss"] == pytest.approx(there[0]["loss"], rel=0.02)


@pytest.mark.parametrize("device", CPU_IS_SLOW)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["pretrain", "qat", "low_bit", "supernet"])
def test_training_in_narrow_precision(method, precision, run):
    bits = ("quantizer.gradient.bits=4",) if method == "low_bit" else ()
    words = [word for word in RUNS[method] if word != "method.integer_check=true"]
    assert results(run(method, *words, *bits, f"trainer.mixed_precision={precision}"))["metrics"]


@pytest.mark.parametrize("device", CPU_IS_SLOW)
@pytest.mark.parametrize("method", ["qat", "low_bit"])
def test_a_compiled_network(method, run):
    plain, compiled = (run(name, *RUNS[method], f"trainer.compile={name}") for name in ("false", "true"))
    pairs = [(ours["loss"], theirs["loss"]) for ours, theirs in zip(rows(compiled), rows(plain)) if "loss" in ours]
    assert pairs[0][0] == pytest.approx(pairs[0][1], rel=0.02)


@pytest.mark.parametrize("device", CPU_IS_SLOW)
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_a_pipeline(compute, run, pipelines):
    words = (
        "method=accuquant",
        *TINY_PIPELINE,
        f"model.path={pipelines('sd')}",
        f"model.compute={compute}",
        "model.gradient_checkpointing=true",
        "method.group_size=2",
        "method.initialization.iterations=1",
        "method.iterations=1",
    )
    assert results(run("pipeline", *words))["metrics"]["psnr"] > 10


@pytest.mark.parametrize("device", CPU_IS_SLOW)
def test_copy_needs_the_memory_of_one_step(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")
    options = {"device": device, "batch": 16, "size": 32, "channels": 64, "repeats": 0}
    one, five = (
        in_process_of_its_own(benchmark_accuquant_memory.measure, "copy", groups, options)["peak_bytes"]
        for groups in (1, 5)
    )
    assert five < (1.05 if device == "cuda" else 1.15) * one  # of a process's memory also what its allocator keeps


@pytest.mark.parametrize("device", EITHER)
@pytest.mark.parametrize(("learn", "limit"), [("scales", 8), ("scales and rounding", 20)])
def test_the_unet_of_stable_diffusion(learn, limit, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")
    options = {"network": "sd14", "learn": learn, "compute": "float32", "checkpointing": False, "threads": None}
    options |= {"device": device, "small": device == "cpu", "limit": None}
    one, five = stable_diffusion.rows_of([1, 5], options, apart=False)
    assert five["peak GiB"] <= limit and one["seconds"] > 0
    if device == "cuda":
        assert five["peak GiB"] <= 1.05 * one["peak GiB"] + 2**20 / GIB
