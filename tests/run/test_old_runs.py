"""Runs that earlier versions left (`old_runs/README.md`): sampled from, evaluated, reported and resumed by this one."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from quantlab.config import load_config
from quantlab.errors import RequestError
from quantlab.run import formats
from quantlab.run.directory import RunDirectory

OLD = Path(__file__).parent / "old_runs"
ACCUQUANT = ("accuquant_f145b94", "accuquant_650b4e0")
TRAINED = ("qat_cf12106", "qat_650b4e0", "low_bit_650b4e0")


@pytest.fixture
def old(tmp_path):
    """old(name): a copy of that run, at a place of its own, as its config says."""

    def copy(name):
        with tarfile.open(OLD / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path / "runs", filter="data")
        run = RunDirectory(tmp_path / "runs" / name)
        weights = tmp_path / "pretrain" / "checkpoints" / "model.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(OLD / "denoiser.safetensors", weights)
        run.config_path.write_text(run.config_path.read_text().replace("/old", str(tmp_path)))
        return run

    return copy


def interrupted(run):
    """The run as it stood at its last checkpoint that is left."""
    results = run.read_results()
    step = max(int(file.stem[5:]) for file in run.checkpoints.glob("step-*.json"))
    rows = [line for line in run.metrics.path.read_text().splitlines(True) if json.loads(line)["step"] <= step]
    run.metrics.path.write_text("".join(rows))
    run.results_path.unlink(), run.model_path.unlink(), run.model_path.with_suffix(".json").unlink()
    run.write_status("interrupted", exit_code=143)
    return results


def assert_near(found, expected):
    """The same numbers, as far as another machine or version of torch leaves them the same."""
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("name", [*ACCUQUANT, *TRAINED])
def test_they_are_evaluated(name, old, quantlab, tmp_path):
    run = old(name)
    code, _, err = quantlab("method=evaluate", f"method.run={run}", f"output_dir={tmp_path / 'evaluated'}")
    assert code == 0, err
    assert_near(RunDirectory(tmp_path / "evaluated").read_results()["metrics"], run.read_results()["metrics"])


def test_they_are_sampled_from(old, quantlab, tmp_path):
    run = old("accuquant_f145b94")
    code, _, err = quantlab(
        "method=sample", "method.samples=4", f"method.run={run}", f"output_dir={tmp_path / 'sampled'}"
    )
    assert code == 0, err
    assert (tmp_path / "sampled/samples/samples.npy").is_file()


@pytest.mark.parametrize("name", ["accuquant_f145b94", "qat_cf12106"])
def test_they_are_resumed(name, old, quantlab):
    run = old(name)
    results = interrupted(run)
    code, _, err = quantlab(f"resume={run}")
    assert code == 0, err
    assert "that an earlier version began" in err
    finished = run.read_results()
    assert finished["cost"]["steps"] == results["cost"]["steps"]
    assert_near(finished["metrics"], results["metrics"])


def test_they_are_reported(old, capsys, tmp_path):
    from quantlab.cli.report import main

    runs = [old(name) for name in (*ACCUQUANT, *TRAINED, "supernet_650b4e0")]
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    table = capsys.readouterr().out
    for run in runs:
        assert f"{run.read_results()['metrics'].get('top1', run.read_results()['metrics'].get('psnr')):.2f}" in table
    # one experiment, whichever version made it
    old_one, new_one = (RunDirectory(tmp_path / "runs" / name).read_config() for name in ACCUQUANT)
    assert old_one | {"output_dir": None} == new_one | {"output_dir": None}


@pytest.mark.parametrize("name", [*ACCUQUANT, *TRAINED, "supernet_650b4e0"])
def test_their_configs_are_whole(name, old):
    assert load_config(old(name).path).method.name == name.rpartition("_")[0]


@pytest.mark.parametrize("number, reader", [(4, "quantlab 0.1.0"), (0, "quantlab 0.1.0"), ("x", "quantlab 0.1.0")])
def test_a_format_of_another_version_is_refused_in_one_line_that_says_which_reads_it(number, reader, old, quantlab):
    run = old("qat_650b4e0")
    config = yaml.safe_load(run.config_path.read_text())
    run.config_path.write_text(yaml.safe_dump({formats.KEY: number, **config}))
    code, _, err = quantlab("method=evaluate", f"method.run={run}", f"output_dir={run.path / 'evaluated'}")
    (line,) = err.strip().splitlines()
    assert code == 2 and f"format {number}, but this version reads 1 to 3" in line and reader in line
    assert not (run.path / "evaluated").exists()


def test_a_newer_run_without_results_is_read_by_a_newer_version():
    with pytest.raises(RequestError, match="a newer quantlab reads it"):
        formats.migrated_config({formats.KEY: 9}, "outputs/run")


def test_what_a_run_has_is_kept_and_only_what_it_lacks_is_filled_in():
    sections = {"task": {}, "model": {"_target_": "quantlab.models.x.build_ddim", "sampler": {"name": "euler"}}}
    quantizer = {
        "_target_": "quantlab.quantizers.wrap.UniformAffinePolicy",
        "weight": {"bits": 3},
        "activation": {"bits": 6},
    }
    method = {"_target_": "quantlab.methods.accuquant.AccuQuant", "learning_rate": {"rounding": 1}}
    given = {**sections, "quantizer": quantizer, "method": method, "trainer": {"drop_last": False}}
    config = formats.migrated_config(given, "run")
    assert config["model"]["sampler"] == {"name": "euler", "shift": 1.0} and config["model"]["prediction"] == "epsilon"
    assert config["trainer"] == {"drop_last": False, "compile": False}
    assert config["quantizer"]["first_layer"] == {"weight_bits": 3, "activation_bits": 6}
    assert config["method"]["initialization"] == {"iterations": 0, "learning_rate": {"rounding": 1}}
    assert given["trainer"] == {"drop_last": False} and "prediction" not in given["model"]  # left alone


@pytest.mark.parametrize("step, max_steps, phase", [(4, None, 0), (5, None, 1), (10, None, 1), (2, 5, 0), (3, 5, 1)])
def test_the_phase_of_a_checkpoint_that_knew_none(step, max_steps, phase, old):
    config = load_config(old("accuquant_f145b94").path)  # four iterations, then six
    trainer = config.trainer.model_copy(update={"max_steps": max_steps})
    state = formats.migrated_state({"spent": 3.0}, 1, step, config.method, trainer)
    assert state == {"network_evaluations": 3.0, "phase": phase, "objective": {}}


def test_a_unit_of_block_reconstruction_is_a_phase(old):
    config = load_config(old("accuquant_f145b94").path)
    method = config.method.model_copy(update={"name": "ptq"})
    state = formats.migrated_state({"spent": 1.0, "unit": 2, "units": [0.5, 0.25]}, 1, 7, method, config.trainer)
    assert state == {"network_evaluations": 1.0, "phase": 2, "objective": {"loss_scales": [0.5, 0.25]}}
