import errno
import json
import logging
import math
import os

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run.atomic_files import atomic_write, claim_directory, create_whole
from quantlab.run.directory import RESULTS_KEYS, RunDirectory

CONFIG = {"seed": 0, "method": {"name": "accuquant", "learning_rate": 1e-5}, "resume": None}


@pytest.fixture
def run(tmp_path):
    """A run that another process began, as it were."""
    run = RunDirectory.create(tmp_path / "outputs" / "run", CONFIG, ["method=accuquant", "method.learning_rate=1e-5"])
    run.close()
    return run


def metrics_lines(run):
    return [json.loads(line) for line in run.metrics.path.read_text().splitlines()]


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


def test_directory_that_holds_a_run_is_refused(run):
    with pytest.raises(RequestError, match=f"already holds a run.*resume={run.path}"):
        RunDirectory.create(run.path, {"seed": 1}, [])
    assert run.read_config() == CONFIG


def test_run_killed_while_it_was_being_made_can_be_started_again(run):
    run.config_path.unlink()
    assert RunDirectory.create(run.path, CONFIG, []).read_config() == CONFIG


def together(count, work, tmp_path):
    """Exit codes of `work(number)` in `count` forked processes that start as one."""
    start, wait = os.pipe()[::-1]
    children = []
    for number in range(count):
        if (pid := os.fork()) == 0:
            code = 99
            try:
                os.close(start)
                os.read(wait, 1)  # returns in all of them when the parent closes its end
                code = work(number)
            finally:
                os._exit(code)
        children.append(pid)
    os.close(wait)
    os.close(start)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


@pytest.mark.parametrize("stands", [False, True])
def test_of_processes_that_create_one_directory_together_one_wins_and_the_others_touch_nothing(stands, tmp_path):
    for attempt in range(20):
        path = tmp_path / f"run{attempt}"
        if stands:
            path.mkdir()  # an empty directory that the user made

        def create(number, path=path):
            try:
                RunDirectory.create(path, {"seed": number}, [f"seed={number}"])
            except RequestError as error:
                return 2 if "already holds a run" in str(error) and "\n" not in str(error) else 3
            return 0

        codes = together(4, create, tmp_path)
        assert sorted(codes) == [0, 2, 2, 2]
        run, winner = RunDirectory(path), codes.index(0)
        assert (
            run.read_config() == {"seed": winner}
            and run.read_typed() == [f"seed={winner}"]
            and run.state() == "running"
        )
        assert sorted(file.name for file in path.rglob("*")) == [
            ".hydra",
            ".lock",
            "config.yaml",
            "config.yaml",
            "overrides.yaml",
            "status.json",
        ]


def test_of_threads_that_create_one_directory_together_one_wins(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    barrier = Barrier(8)

    def create(number):
        barrier.wait()
        try:
            return RunDirectory.create(tmp_path / "run", {"seed": number}, []) and "won"
        except RequestError:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(create, range(8))) == ["refused"] * 7 + ["won"]


def test_a_file_system_without_hard_links_has_one_winner_too(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    assert RunDirectory.create(tmp_path / "run", CONFIG, []).read_config() == CONFIG
    with pytest.raises(FileExistsError):
        create_whole(tmp_path / "run" / "config.yaml", "other")
    assert [*tmp_path.rglob(".*.tmp")] == []


def test_directories_named_by_the_time_never_meet(tmp_path):
    path = tmp_path / "outputs" / "12-00-00"

    def claim(number):
        (tmp_path / f"got{number}").write_text(claim_directory(path).name)
        return 0

    assert together(6, claim, tmp_path) == [0] * 6
    names = {(tmp_path / f"got{number}").read_text() for number in range(6)}
    assert (
        names
        == {"12-00-00", *(f"12-00-00-{number}" for number in range(2, 7))}
        == {folder.name for folder in path.parent.iterdir()}
    )


def test_directory_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(RequestError, match="holds no run.*config.yaml is missing"):
        RunDirectory.open(tmp_path)


def test_unwritable_place_is_a_wrong_request(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match="cannot write to .*output_dir="):
        RunDirectory.create(tmp_path / "file" / "run", CONFIG, [])


def test_checkpoints_whose_config_is_gone_are_not_taken_for_a_new_run(run):
    run.checkpoints.mkdir()
    (run.checkpoints / "step-00000010.json").write_text("{}")
    run.config_path.unlink()
    with pytest.raises(RequestError, match="checkpoints of a run whose config.yaml is gone"):
        RunDirectory.create(run.path, CONFIG, [])


def edited(run, **changed):
    run.config_path.write_text(yaml.safe_dump({**yaml.safe_load(run.config_path.read_text()), **changed}))
    return RunDirectory(run.path)


def test_a_file_of_another_run_or_another_config_is_refused(run, tmp_path):
    facts, file = {"bound": run.bound}, run.checkpoints / "step-00000010.json"
    edited(run, data_dir="/elsewhere", device="cuda").require_own(facts, file)  # moved, not changed
    run.require_own({}, file)  # of an earlier version
    with pytest.raises(RequestError, match=r"made with another config .* now \(seed: 0 then, 1 now\)") as caught:
        edited(run, seed=1).require_own(facts, file)
    assert len(str(caught.value).splitlines()) == 1
    other = RunDirectory.create(tmp_path / "other", CONFIG, [])
    with pytest.raises(RequestError, match="step-00000010.json belongs to another run"):
        other.require_own(facts, file)


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
    assert run.write_samples(np.zeros((2, 4, 4, 1), np.uint8)) == run.samples / "samples.npy"
    assert run.read_denoising() == {"timesteps": [], "curves": {}}
    assert np.load(run.samples / "samples.npy").shape == (2, 4, 4, 1)


def test_status_error_is_one_line(run):
    run.write_status("failed", error="no space\nleft", exit_code=1)
    assert run.read_status() == {"state": "failed", "error": "no space left", "exit_code": 1}
    with pytest.raises(ValueError, match="'done'.*running, completed, failed, interrupted"):
        run.write_status("done")


def test_metrics_are_one_line_per_step_with_step_first(run):
    run.metrics.append(10, {"loss": 0.1, "accuracy": np.float64(2.5), "scale": math.nan, "bound": -math.inf})
    run.metrics.append(20, {"loss": 1 / 3})
    assert (
        run.metrics.path.read_text()
        == '{"step": 10, "loss": 0.1, "accuracy": 2.5, "scale": "NaN", "bound": "-Infinity"}\n'
        '{"step": 20, "loss": 0.3333333333333333}\n'
    )


def test_resume_cuts_the_torn_line_and_repeats_no_step(run):
    run.metrics.append(10, {"loss": 0.5})
    run.metrics.append(20, {"loss": 0.25})
    with open(run.metrics.path, "a") as file:
        file.write('{"step": 30, "lo')

    resumed = RunDirectory.open(run.path)
    assert [line["step"] for line in metrics_lines(resumed)] == [10, 20]
    for step, loss in [(20, 0.25), (30, 0.125)]:
        resumed.metrics.append(step, {"loss": loss})
    resumed.metrics.append(30, {"fid": 4.0})
    assert metrics_lines(resumed) == [
        {"step": 10, "loss": 0.5},
        {"step": 20, "loss": 0.25},
        {"step": 30, "loss": 0.125},
        {"step": 30, "fid": 4.0},
    ]


ROTTEN = (b'{"step": 20, "loss"\xff 0.25}', b'{"step": 20, "lo', b"[20]", b'{"step": "x"}', b"")


@pytest.mark.parametrize("rotten", ROTTEN)
def test_a_rotten_line_is_taken_out_and_kept_aside(rotten, run, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("quantlab"), "propagate", True)
    run.metrics.append(10, {"loss": 0.5})
    run.metrics.append(30, {"loss": 0.125})
    first, last = run.metrics.path.read_bytes().splitlines()
    run.metrics.path.write_bytes(b"\n".join([first, rotten, last, b""]))

    resumed = RunDirectory.open(run.path)
    assert "metrics.jsonl: line 2 taken out" in caplog.text
    resumed.metrics.append(20, {"loss": 0.25})  # made again
    assert [row["step"] for row in resumed.metrics.read()] == [10, 20, 30]
    assert (run.path / "metrics.jsonl.damaged").read_bytes() == rotten + b"\n"


@pytest.mark.parametrize("kept", range(0, 30, 3))
def test_metrics_survive_a_kill_at_any_byte(run, kept):
    run.metrics.append(10, {"loss": 0.5})
    run.metrics.append(20, {"loss": 0.25})
    whole = run.metrics.path.read_bytes()
    run.metrics.path.write_bytes(whole[:-kept] if kept else whole)

    resumed = RunDirectory.open(run.path)
    resumed.metrics.append(10, {"loss": 0.5})
    resumed.metrics.append(20, {"loss": 0.25})
    assert resumed.metrics.path.read_bytes() == whole


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
