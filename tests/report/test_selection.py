"""Columns, filters and orders as typed: what they choose, and what a wrong one is told."""

import csv
import io
import json

import pytest

from quantlab.cli.report import main


@pytest.fixture
def report(make_run, tmp_path, capsys):
    """report("--sort", "fid") -> (exit code, stdout, stderr), over four runs of two sizes and seeds."""
    for size, seed, fid in ((1, 0, 4.0), (1, 1, 3.0), (2, 0, 2.0), (2, 1, 1.0)):
        settings = {"group_size": size, "learn": {"steps": 3}, "range": {"steps": size}}
        more = {"psnr": 20.0} if size == 2 else {}
        make_run(f"runs/{size}_{seed}", seed=seed, metrics={"fid": fid, **more}, settings=settings)

    def call(*words):
        code = main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--no-plots", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def lines_of(report, *words):
    code, out, _ = report("--format", "csv", *words)
    assert code == 0
    return list(csv.DictReader(io.StringIO(out)))


@pytest.mark.parametrize(
    ("words", "fids"),
    [
        (["seed=0"], "4.0 2.0"),
        (["group_size=2", "seed=1"], "1.0"),
        (["method.group_size!=1"], "2.0 1.0"),
        (["fid<3"], "2.0 1.0"),
        (["fid>=3"], "4.0 3.0"),
        (["directory=*1_?"], "4.0 3.0"),
        (["seed=0,1", "psnr=20"], "2.0 1.0"),
    ],
)
def test_filters_choose_runs(report, words, fids):
    found = lines_of(report, *(word for one in words for word in ("--filter", one)))
    assert [line["fid"] for line in found] == fids.split()


def test_the_best_comes_first_and_rows_without_a_metric_last(report):
    assert [line["fid"] for line in lines_of(report, "--sort", "fid")] == ["1.0", "2.0", "3.0", "4.0"]
    assert [line["fid"] for line in lines_of(report, "--sort", "fid", "--reverse")] == ["4.0", "3.0", "2.0", "1.0"]
    assert [line["psnr"] for line in lines_of(report, "--sort", "psnr,fid")] == ["20.0", "20.0", "", ""]


def test_columns_are_those_that_were_asked_for(report):
    found = lines_of(report, "--columns", "group_size,fid,learn.steps")
    assert found[0] == {"method.group_size": "1", "fid": "4.0", "method.learn.steps": "3"}


def test_groups_are_means_over_their_runs(report):
    found = lines_of(report, "--group-by", "seed")
    assert [(line["seed"], line["n"], line["fid"]) for line in found] == [("0", "2", "3.0"), ("1", "2", "2.0")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--filter", "grup_size=1"], "--filter: got 'grup_size', allowed: "),
        (["--filter", "grup_size=1"], "did you mean 'group_size'?"),
        (["--columns", "fidd"], "did you mean 'fid'?"),
        (["--sort", "steps"], "which may be method.learn.steps or method.range.steps; type one of these"),
        (["--filter", "seed"], "allowed: KEY=VALUE"),
        (["--filter", "fid<many"], "but < takes a number"),
        (["--filter", "method=acuquant"], "which no run has; allowed: accuquant; did you mean 'accuquant'?"),
        (["--filter", "fid=1", "--filter", "seed=0"], "no run satisfies all 2 filters"),
        (["--group-by", "sead"], "did you mean 'seed'?"),
    ],
)
def test_a_wrong_name_or_filter_is_one_line_and_nothing_is_written(report, tmp_path, words, said):
    code, out, err = report(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (tmp_path / "out").exists()


def test_all_four_formats_are_written_and_any_is_printed(report, tmp_path):
    code, out, _ = report("--format", "json")
    assert code == 0 and (tmp_path / "out" / "comparison.json").read_text() == out
    assert {mean["fid"]["mean"] for mean in json.loads(out)["tables"][0]["means"]} == {3.5, 1.5}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"comparison.{suffix}" for suffix in ("md", "csv", "json", "tex")
    }


def test_a_run_that_vanishes_while_it_is_read_is_named(report, monkeypatch, tmp_path):
    import quantlab.cli.report as command

    def read(directory, plainly=command.read_run):
        if directory.name == "1_0":
            raise FileNotFoundError(2, "No such file or directory", str(directory))
        return plainly(directory)

    monkeypatch.setattr(command, "read_run", read)
    code, out, err = report("--sort", "fid")
    assert code == 0 and "/1_1 |" in out and "/1_0 |" not in out
    assert "skipped: " in err and "1_0" in err
