"""A run's files: what is written, what is read again, and what a damaged or missing one means."""

import errno
import json
import logging
import math
import os

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from run_files import CONFIG

from quantlab.errors import CorruptFileError
from quantlab.run.atomic_files import atomic_write
from quantlab.run.directory import RESULTS_KEYS, RunDirectory


def test_new_run_records_config_what_was_typed_and_state(run):
    own = {"run_format": 3, "run_identity": run.bound["run"]}
    assert len(own["run_identity"]) == 32
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {**own, **CONFIG}
    assert OmegaConf.load(run.path / ".hydra" / "config.yaml") == {**own, **CONFIG}
    assert yaml.safe_load((run.path / ".hydra" / "overrides.yaml").read_text())[0] == "method=accuquant"
    assert json.loads((run.path / "status.json").read_text()) == {"state": "running", "error": None, "exit_code": None}
    assert not run.results_path.exists()

    again = RunDirectory.open(run.path)
    assert again.read_config() == CONFIG
    assert again.read_typed() == ["method=accuquant", "method.learning_rate=1e-5"]
    assert again.read_status()["state"] == "running"


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {"name": "1e-5", "flag": "yes", "float": 1e-5}, [])
    assert run.read_config() == {"name": "1e-5", "flag": "yes", "float": 1e-5}
    written = OmegaConf.load(run.config_path)
    assert (written.name, written.flag, written.float) == ("1e-5", "yes", 1e-5)


def test_damaged_config_names_the_file(run):
    run.config_path.write_text("seed: [0")
    with pytest.raises(CorruptFileError, match="config.yaml is damaged"):
        run.read_config()


def test_to_look_at_a_run_creates_nothing(run, tmp_path):
    before = sorted(run.path.rglob("*"))
    read = {name: getattr(run, name) for name in dir(run)}  # the properties, if there are any, among them
    assert len([method() for name, method in read.items() if name.startswith("read_")]) == 6
    assert run.metrics.read() == [] and run.pictures() == [] and run.state() == "running"
    assert sorted(run.path.rglob("*")) == before
    RunDirectory(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_folders_appear_with_what_is_written_into_them(run):
    run.write_denoising({"timesteps": [], "curves": {}})
    parts = (np.full((1, 4, 4, 1), level, np.uint8) for level in (0, 9))
    assert run.write_samples(parts, 2) == run.samples / "samples.npy"
    assert run.read_denoising() == {"timesteps": [], "curves": {}}
    samples = np.load(run.samples / "samples.npy")
    assert samples.shape == (2, 4, 4, 1) and samples[:, 0, 0, 0].tolist() == [0, 9]


def test_status_error_is_one_line(run):
    run.write_status("failed", error="no space\nleft", exit_code=1)
    assert run.read_status() == {"state": "failed", "error": "no space left", "exit_code": 1}
    with pytest.raises(ValueError, match="'done'.*running, completed, failed, interrupted"):
        run.write_status("done")


def results():
    return {key: dict.fromkeys(inners, 0) if inners else "x" for key, inners in RESULTS_KEYS.items()}


def test_results_state_their_schema_first(run):
    run.write_results({**results(), "metrics": {"psnr": 24.1}, "baseline": {"uncorrected": {"fid": math.nan}}})
    written = json.loads(run.results_path.read_text())
    assert next(iter(written.items())) == ("schema", 1)
    assert written["metrics"] == {"psnr": 24.1} and written["baseline"] == {"uncorrected": {"fid": "NaN"}}


def test_results_whose_metrics_are_not_finite_are_refused(run):
    with pytest.raises(ValueError, match="metrics of a completed run are finite, but fid is not"):
        run.write_results({**results(), "metrics": {"fid": math.nan, "psnr": 24.1}})
    assert not run.results_path.exists()


def test_results_that_lack_keys_are_refused(run):
    lacking = results()
    del lacking["seed"], lacking["cost"]["steps"]
    with pytest.raises(ValueError, match="results lack seed, cost.steps"):
        run.write_results(lacking)
    assert not run.results_path.exists()


def test_log_goes_to_stderr_and_file_and_the_table_to_stdout(run, capsys):
    log = logging.getLogger("quantlab")
    with run.log.attached():
        log.info("step %d", 3)
        logging.getLogger("quantlab.trainer").warning("careful")
        run.log.print("| fid |")
    log.info("after the run")

    printed = capsys.readouterr()
    assert printed.err == "step 3\nwarning: careful\n"
    assert printed.out == "| fid |\n"
    assert run.log.path.read_text() == "step 3\nwarning: careful\n| fid |\n"


def test_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    atomic_write(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_kill_are_removed_on_resume(run):
    for folder in (run.path, run.checkpoints, run.path / ".hydra"):
        folder.mkdir(exist_ok=True)
        (folder / ".status.json.123.tmp").write_text("half")
        (folder / ".tmpa1B2c3").write_text("half")  # as safetensors calls it
    RunDirectory.open(run.path)
    assert not list(run.path.rglob("*.tmp")) and not list(run.path.rglob(".*tmp*"))


@pytest.mark.parametrize("results_file", [None, "{", '{"schema": 1}'])
def test_a_run_whose_results_are_gone_is_not_completed(results_file, run):
    run.write_results({**results(), "metrics": {}})
    run.write_status("completed", exit_code=0)
    assert run.is_completed()
    run.results_path.unlink()
    if results_file is not None:
        run.results_path.write_text(results_file)
    assert not run.is_completed()


def test_what_only_describes_a_run_may_be_missing(run):
    (run.path / ".hydra" / "overrides.yaml").unlink()
    run.status_path.write_text('{"sta')
    assert RunDirectory.open(run.path).read_typed() == [] and run.state() is None


def test_a_table_that_nobody_reads_is_no_failure(run, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        run.log.print("| fid |")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert run.log.path.read_text() == "| fid |\n"
