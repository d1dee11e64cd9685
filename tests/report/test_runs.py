"""What is read from run directories, whole and damaged."""

import json

import pytest

from quantlab.errors import CorruptFileError, RequestError
from quantlab.report.runs import find_runs, read_run
from quantlab.run.directory import RunDirectory


def test_runs_are_found_at_any_depth_and_once(make_run, tmp_path):
    single = make_run("single", metrics={"fid": 1.0})
    job = make_run("sweep/2025/seed=1", state="failed")
    assert find_runs([tmp_path]) == [single.resolve(), job.resolve()]
    assert find_runs([single, tmp_path, single]) == [single.resolve(), job.resolve()]


def test_runs_stand_as_a_person_counts(make_run, tmp_path):
    for seed in (10, 9, 100):
        make_run(f"seed={seed}", metrics={"fid": 1.0})
    assert [path.name for path in find_runs([tmp_path])] == ["seed=9", "seed=10", "seed=100"]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(RequestError, match="nowhere is not a directory"):
        find_runs([tmp_path / "nowhere"])


def test_a_run_without_results_yields_its_state(make_run):
    run = read_run(make_run(state="failed", error="loss became NaN at step 12"))
    assert (run["state"], run["error"], run["results"]) == ("failed", "loss became NaN at step 12", None)


@pytest.mark.parametrize("text", ['{"schema": 1, "met', "[1, 2]", '{"method": "ptq"}', "", "\xff\x00"])
def test_damaged_results_are_named(make_run, text):
    directory = make_run(metrics={"fid": 1.0})
    (directory / "results.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptFileError, match="results.json is damaged"):
        read_run(directory)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "is of schema 2, but this version reads 1"),
        ({"cost": [1]}, "damaged .cost is no dict"),
        ({"notes": "all"}, "damaged .notes is no list"),
    ],
)
def test_results_of_another_schema_or_kind_are_named(make_run, change, said):
    directory = make_run(metrics={"fid": 1.0})
    file = directory / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CorruptFileError, match=said):
        read_run(directory)


def test_damaged_descriptions_do_not_hide_the_numbers(make_run):
    directory = make_run(metrics={"fid": 1.5})
    (directory / "status.json").write_text("{")
    (directory / "config.yaml").write_text("a: [")
    run = read_run(directory)
    assert (run["state"], run["config"], run["results"]["metrics"]) == ("unknown", {}, {"fid": 1.5})


def test_a_torn_or_rotten_line_of_metrics_is_left_out(make_run, caplog):
    directory = make_run()
    (directory / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null}\n{"step": 3, "lo')
    assert RunDirectory(directory).metrics.read() == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]
    (directory / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    assert RunDirectory(directory).metrics.read() == [{"step": 1}, {"step": 3}]
    assert "line 2 left out" in caplog.text


def test_denoising_curves_must_have_one_value_per_step(make_run):
    directory = make_run()
    assert RunDirectory(directory).read_denoising() is None
    (directory / "figures").mkdir()
    curve = {"step_error": [1], "accumulated_error": [1, 2]}
    series = {"timesteps": [9, 4], "group_size": 1, "curves": {"block": curve}}
    (directory / "figures" / "denoising.json").write_text(json.dumps(series))
    with pytest.raises(CorruptFileError, match="2 denoising steps"):
        RunDirectory(directory).read_denoising()
