"""What a run reads back is its own: files of another run, another step or another config are refused, in one line."""

import shutil

import pytest
import yaml
from run_files import results
from undrawn import undrawn

from quantlab.run.directory import RunDirectory

WORDS = (
    "method=low_bit",
    "model.depth=8",
    "model.width=4",
    "method.batch_size=64",
    "device=cpu",
    "trainer.max_steps=4",
    "trainer.checkpoint_every=2",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory, cache):
    """Two completed runs, of seeds 0 and 1."""
    from quantlab.cli.main import main

    folder = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        words = (*WORDS, f"seed={seed}", f"output_dir={folder / str(seed)}", f"cache_dir={cache}")
        with undrawn():
            assert main([*words]) == 0
    return folder


def interrupted(two, tmp_path):
    """The run of seed 0 as a kill after its last checkpoint left it."""
    run = RunDirectory(shutil.copytree(two / "0", tmp_path / "run"))
    run.results_path.unlink(), run.model_path.unlink(), run.model_path.with_suffix(".json").unlink()
    run.write_status("running")
    return run


def edit(run, key, value):
    config = yaml.safe_load(run.config_path.read_text())
    *parents, last = key.split(".")
    section = config
    for part in parents:
        section = section[part]
    section[last] = value
    run.config_path.write_text(yaml.safe_dump(config))


def swap_last(run, two):
    for suffix in ("json", "safetensors"):
        shutil.copy(two / "1" / "checkpoints" / f"step-00000004.{suffix}", run.checkpoints)


def rename_last(run, two):
    for suffix in ("json", "safetensors"):
        (run.checkpoints / f"step-00000004.{suffix}").rename(run.checkpoints / f"step-00000099.{suffix}")


@pytest.mark.parametrize(
    "spoil, says",
    [
        (swap_last, "step-00000004.json belongs to another run"),
        (rename_last, "is the checkpoint of step 4, not of step 99"),
        (lambda run, two: edit(run, "seed", 7), "(seed: 0 then, 7 now)"),
        (lambda run, two: edit(run, "quantizer.weight.bits", 8), "(quantizer.weight.bits: 4 then, 8 now)"),
    ],
)
def test_a_resumed_run_refuses_what_is_not_its_own(spoil, says, quantlab, two, tmp_path):
    run = interrupted(two, tmp_path)
    spoil(run, two)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    code, _, err = quantlab(f"resume={run}")
    (line,) = [line for line in err.splitlines() if line.startswith("quantlab: error")]
    assert code == 2 and says in line, err
    assert before == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def test_places_may_change(quantlab, two, tmp_path):
    run = interrupted(two, tmp_path)
    for key in ("output_dir", "data_dir", "cache_dir"):
        edit(run, key, str(tmp_path / "elsewhere"))
    assert quantlab(f"resume={run}")[0] == 0
    assert results(run.path)["metrics"] == results(two / "0")["metrics"]


@pytest.mark.parametrize("method", ["method=evaluate method.run={}", "method=qat task=digits model.weights={}"])
def test_the_model_of_another_run_is_not_taken_for_this_ones(method, quantlab, two, tmp_path):
    run = RunDirectory(shutil.copytree(two / "0", tmp_path / "run"))
    for suffix in ("json", "safetensors"):
        shutil.copy(two / "1" / "checkpoints" / f"model.{suffix}", run.checkpoints)
    code, _, err = quantlab(*method.format(run).split(), f"output_dir={tmp_path / 'out'}")
    assert code == 2 and "model.safetensors belongs to another run" in err, err
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_evaluated_with_bits_that_were_edited(quantlab, two, tmp_path):
    run = RunDirectory(shutil.copytree(two / "0", tmp_path / "run"))
    edit(run, "quantizer.weight.bits", 8)
    code, _, err = quantlab("method=evaluate", f"method.run={run}", f"output_dir={tmp_path / 'out'}")
    assert code == 2 and "(quantizer.weight.bits: 4 then, 8 now)" in err, err
    assert not (tmp_path / "out").exists()
