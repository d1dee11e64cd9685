"""quantlab-report, from its command line to the files it writes."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from quantlab.cli.report import main


@pytest.fixture
def finished(tmp_path):
    """finished(name, method, seed, fid) writes a completed run with curves below tmp_path/outputs."""

    def make(name, method, seed, fid, reconstruction=None):
        directory = tmp_path / "outputs" / name
        (directory / "figures").mkdir(parents=True)
        section = {"name": method} | ({"reconstruction": reconstruction} if reconstruction else {})
        (directory / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "method": section}))
        (directory / "status.json").write_text(json.dumps({"state": "completed", "error": None, "exit_code": 0}))
        results = {"schema": 1, "method": method, "task": "digits", "model": "ddim", "seed": seed}
        results |= {"metrics": {"fid": fid}, "bits": {"weight": 4, "activation": 8, "gradient": 32}}
        results |= {"protocol": {"samples": 64}, "baseline": {}}
        (directory / "results.json").write_text(json.dumps(results))
        (directory / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
        curve = {"step_error": [0.1, 0.1], "accumulated_error": [0.1, fid]}
        curve["fid_to_fp32"] = {"step": [2], "value": [fid]}
        series = {"timesteps": [9, 4], "group_size": 1, "curves": {reconstruction or method: curve}}
        (directory / "figures" / "denoising.json").write_text(json.dumps(series))
        return directory

    return make


def test_means_then_runs_on_stdout_and_files_beside_the_runs(finished, tmp_path, capsys):
    finished("a0", "accuquant", 0, 1.0)
    finished("a1", "accuquant", 1, 2.0)
    finished("b0", "ptq", 0, 5.0, reconstruction="block")
    assert main([str(tmp_path / "outputs")]) == 0
    text = capsys.readouterr().out
    means, runs = text.split("### Runs")
    assert "## digits\n" in means and "All runs: ddim, W4A8." in means
    assert "| accuquant | 0, 1 | 2 | 1.500 ± 0.71 |" in means
    assert "| ptq/block | 0 | 1 | 5.000 |" in means
    assert runs.count("/outputs/") == 3
    report = tmp_path / "outputs" / "report"
    assert [line["fid"] for line in csv.DictReader((report / "comparison.csv").open())] == ["1.0", "2.0", "5.0"]
    assert text in (report / "comparison.md").read_text()
    names = {"denoising_error_digits_ddim_W4A8", "fid_along_denoising_digits_ddim_W4A8", "training_curves_digits"}
    assert {picture.stem for picture in report.glob("*.png")} == names
    for picture in report.glob("*.png"):
        assert f"]({picture.name})" in (report / "comparison.md").read_text()
        assert len(Image.open(picture).convert("RGB").getcolors(1 << 24)) > 10


def test_unfinished_and_damaged_runs_are_named_in_one_line_each(finished, tmp_path, capsys):
    finished("good", "accuquant", 0, 1.0)
    (finished("damaged", "accuquant", 1, 2.0) / "results.json").write_text('{"schema": 1,')
    failed = finished("failed", "accuquant", 2, 3.0)
    (failed / "results.json").unlink()
    (failed / "status.json").write_text('{"state": "failed", "error": "loss became NaN", "exit_code": 1}')
    assert main([str(tmp_path / "outputs"), "--output", str(tmp_path / "elsewhere")]) == 0
    out, err = capsys.readouterr()
    assert "## Not completed" in out and "| failed | loss became NaN |" in out and "outputs/damaged" not in out
    assert "Protocol: 64 samples." in out
    assert [line.split(":")[1].strip() for line in err.splitlines()[:2]] == ["skipped", "not completed"]
    assert "damaged/results.json is damaged" in err and "failed: loss became NaN" in err and "and 3 plots" in err
    assert (tmp_path / "elsewhere" / "comparison.csv").is_file()
    assert not (tmp_path / "outputs" / "report").exists()


def test_a_seed_that_is_there_twice_counts_once_and_that_is_said(finished, tmp_path, capsys):
    finished("a0", "accuquant", 0, 1.0)
    finished("a1", "accuquant", 1, 2.0)
    finished("again", "accuquant", 0, 9.0)
    assert main([str(tmp_path), "--no-plots"]) == 0
    out, err = capsys.readouterr()
    assert "| accuquant | 0, 1 | 2 | 1.500 ± 0.71 |" in out
    (line,) = [line for line in err.splitlines() if "not in the means" in line]
    assert re.search(r"/again repeats \S+/a0 with the same seed 0$", line)


def test_a_run_that_is_removed_while_it_is_read_costs_no_other(finished, tmp_path, capsys, monkeypatch):
    from quantlab.cli import report

    runs = [finished(f"run{number}", "accuquant", number, 1.0 + number) for number in range(3)]
    find, rows = report.find_runs, report.comparison_rows

    def removed(run, then):
        return lambda *arguments: [then(*arguments), shutil.rmtree(run)][0]

    monkeypatch.setattr(report, "find_runs", removed(runs[0], find))
    monkeypatch.setattr(report, "comparison_rows", removed(runs[1], rows))
    assert main([str(tmp_path / "outputs")]) == 0
    out, err = capsys.readouterr()
    assert "run0" not in out and "outputs/run1" in out and "outputs/run2" in out
    assert "skipped: " in err and "run0 was removed while it was read" in err and "and 3 plots" in err


def test_one_run_is_one_table(finished, capsys):
    directory = finished("only", "accuquant", 0, 1.0)
    assert main([str(directory)]) == 0
    assert capsys.readouterr().out.startswith("## digits\n")
    assert (directory / "report" / "comparison.md").is_file()


def test_repeating_the_command_finds_the_same_runs(finished, tmp_path, capsys):
    finished("only", "accuquant", 0, 1.0)
    outputs = [(main([str(tmp_path)]), capsys.readouterr().out) for _ in range(2)]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_nothing_to_report_is_one_line_and_exit_2(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("quantlab-report: error: ") and err.count("\n") == 1
    assert not (tmp_path / name / "report").exists()


def test_a_wrong_option_is_one_line(capsys):
    assert main(["x", "--formt", "csv"]) == 2
    said = "unrecognized arguments: --formt csv; type quantlab-report --help for all options"
    assert capsys.readouterr().err == f"quantlab-report: error: {said}\n"


def test_an_output_that_cannot_be_written_is_one_line_and_exit_1(finished, tmp_path, capsys):
    directory = finished("only", "accuquant", 0, 1.0)
    (tmp_path / "file").write_text("")
    assert main([str(directory), "--output", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "file") in error


def test_a_report_imports_neither_torch_nor_hydra(finished):
    directory = finished("only", "accuquant", 0, 1.0)
    code = "import sys; from quantlab.cli.report import main; main(sys.argv[1:])"
    code += "; print(sorted({'torch', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_answered_without_numpy_and_matplotlib():
    code = "import sys, quantlab.cli.report; print({'numpy', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_reader_that_goes_away_costs_no_file(finished, tmp_path):
    directory = finished("only", "accuquant", 0, 1.0)
    line = f"{shlex.quote(sys.executable)} -u -m quantlab.cli.report {directory} 2>{tmp_path / 'said'}"
    command = f"{line} | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    assert (tmp_path / "said").read_text().startswith("quantlab-report: wrote") and (
        directory / "report" / "comparison.md"
    ).is_file()
