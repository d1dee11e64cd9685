"""Tables from one command: their definitions, what they compare, and the page that they make."""

import importlib.util
import itertools
import json
from pathlib import Path

import pytest
from composed import composed
from scipy.stats import ttest_rel

from quantlab.config.catalog import options
from quantlab.errors import RequestError
from quantlab.report.measured_table import measure, to_json, to_markdown, to_rows
from quantlab.report.paired import compare, holm
from quantlab.report.table_definition import TableDefinition, cells, load_definition, table_names
from quantlab.report.table_figure import table_curves

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"
TABLES = list(table_names())
ACCUQUANT = "quantlab.methods.accuquant.AccuQuant"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def some(columns=("A", "B"), **changes):
    content = {
        "title": "T",
        "spread_over": "chance",
        "metrics": ["fid_to_fp32", "psnr"],
        "columns": {name: [] for name in columns},
        "rows": {
            "ours": {"label": "Ours", "words": "seed=1"},
            "theirs": {"label": "the others"},
            "new": {"label": "New", "needs": "a GPU"},
        },
        "compare": {"ours": ["theirs"]},
        "profiles": {"small": {"title": "small", "needs": "a GPU for some"}},
    }
    return TableDefinition.model_validate(content | changes)


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_names_an_experiment_and_no_two_share_a_folder(name):
    table = load_definition(name)
    for profile in table.profiles:
        found = cells(table, profile)
        assert len({cell.name for cell in found}) == len(found) > 0
        for cell in found:
            (experiment,) = [word for word in cell.words if word.startswith("experiment=")]
            assert experiment.partition("=")[2] in options("experiment"), cell


@pytest.mark.parametrize("name", TABLES)
def test_the_words_of_profiles_and_columns_make_runs(name, tmp_path):
    table = load_definition(name)
    for profile in table.profiles:
        first, *others = cells(table, profile)
        for cell in (first, *others[-1:]):  # composing takes a while
            words = [word for word in cell.words if not any(f"{{{name}}}" in word for name in table.first)]
            composed(*words, f"data_dir={tmp_path}")


def test_what_a_definition_names_must_exist():
    for wrong, said in (
        ({"compare": {"ours": ["thiers"]}}, "row 'thiers' does not exist"),
        ({"metrics": ["fidd"]}, "metric 'fidd' does not exist"),
        ({"x": "epochs"}, "column 'A' is no number"),
        ({"titel": 3}, "Extra inputs are not permitted"),
    ):
        with pytest.raises(ValueError, match=said):
            some(**wrong)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(RequestError, match="table: got 'accuquant_qualty'.*did you mean 'accuquant_quality'"):
        load_definition("accuquant_qualty")
    with pytest.raises(RequestError, match="row: got 'our', allowed: ours, theirs, new; did you mean 'ours'"):
        cells(some(), "small", rows=["our"])
    with pytest.raises(RequestError, match="profile: got 'big', allowed: small"):
        cells(some(), "big")


def test_paired_comparisons_are_t_tests_of_differences_or_of_log_ratios():
    ours, theirs = {0: 1.0, 1: 2.0, 2: 4.5, 9: 1.0}, {0: 2.0, 1: 5.0, 2: 8.0, 7: 1.0}
    one = compare("a", "b", "c", "psnr", ours, theirs)
    assert one.p == pytest.approx(ttest_rel([1.0, 2.0, 4.5], [2.0, 5.0, 8.0]).pvalue)
    assert (one.wins, one.is_ratio, one.difference.n) == (0, False, 3)
    distance = compare("a", "b", "c", "fid_to_fp32", {0: 1.0, 1: 2.0}, {0: 2.0, 1: 8.0})
    assert (distance.wins, distance.is_ratio) == (2, True)
    assert str(distance) == "× 0.35 (×÷ 1.6)"
    assert compare("a", "b", "c", "psnr", {0: 1.0}, {1: 1.0}) is None
    assert compare("a", "b", "c", "psnr", {0: 1.0}, {0: 2.0}).p is None


def test_holm_multiplies_by_the_number_left_and_never_decreases():
    one = compare("a", "b", "c", "psnr", {0: 1.0, 1: 2.0}, {0: 2.0, 1: 5.0})
    corrected = holm([one._replace(p=p) for p in (0.04, 0.01, None, 0.03)])
    assert [c.holm for c in corrected] == pytest.approx([0.06, 0.03, None, 0.06])


@pytest.fixture
def finished(make_run):
    """finished(folder, seed, ...) writes the run of one cell with those metrics."""
    return lambda folder, seed, **metrics: make_run(f"{folder}/seed={seed}", seed=seed, metrics=metrics)


@pytest.fixture
def measured(tmp_path, finished):
    table = some(
        rows=some().model_dump()["rows"] | {"theirs": {"label": "theirs", "published": {"A": {"fid_to_fp32": 9.5}}}},
        source="Me",
    )
    for seed, (ours, theirs) in enumerate([(1.0, 2.0), (1.5, 4.0)]):
        finished("ours_a", seed, fid_to_fp32=ours, psnr=30.0)
        finished("theirs_a", seed, fid_to_fp32=theirs, psnr=31.0)
    finished("ours_b", 0, fid_to_fp32=3.0)
    (tmp_path / "new_a.log").write_text("quantlab: error: data_dir: no ImageNet there\n")
    return measure(table, "small", cells(table, "small"), tmp_path)


def test_the_page_says_what_was_measured_and_what_was_not(measured):
    text = to_markdown(measured, "python x")
    assert "| Ours | **1.250 ± 0.35** | 3.000 (n=1) |" in text
    assert "| *theirs, published* | *9.500* |" in text
    assert "| Ours against theirs | fid_to_fp32 | A | × 0.43 (×÷ 1.2) | 2 of 2 |" in text
    assert "- New needs a GPU" in text and "- New, A: data_dir: no ImageNet there" in text
    assert "- New, B: not run yet" in text
    content = json.loads(to_json(measured, "python x"))
    assert content["missing"]["New, B"] == "not run yet" and len(content["runs"]) == len(to_rows(measured)) == 5


def test_rows_that_are_only_quoted_stand_among_those_that_ran(tmp_path, finished):
    quoted = {"only_these": True, "label": "Theirs", "published": {"A": {"fid_to_fp32": 9.0}}}
    table = some(rows=some().model_dump()["rows"] | {"theirs": quoted}, compare={})
    assert {cell.row for cell in cells(table, "small")} == {"ours", "new"}
    with pytest.raises(RequestError, match="column: got A, B, allowed of theirs: none, which are only quoted"):
        cells(table, "small", rows=["theirs"])
    for row in ("ours", "new"):
        finished(f"{row}_a", 0, fid_to_fp32=1.0)
    text = to_markdown(measure(table, "small", cells(table, "small"), tmp_path), "python x")
    assert "| Ours | 1.000 |\n| *Theirs, published* | *9.000* |\n| New | 1.000 |" in text


def test_rows_columns_and_baselines_are_called_by_their_labels(tmp_path, make_run):
    table = some(column_labels={"A": "short"}, columns=("A",))
    run = {"metrics": {"fid_to_fp32": 1.0}, "baseline": {"uncorrected": {"fid_to_fp32": 3.0}}}
    make_run("ours_a/seed=0", **run)
    config = tmp_path / "ours_a" / "seed=0" / "config.yaml"
    config.write_text(config.read_text().replace("name: accuquant", f"_target_: {ACCUQUANT}\n  name: accuquant"))
    found = measure(table, "small", cells(table, "small"), tmp_path)
    text = to_markdown(found, "python x")
    assert "|  | short |" in text and "| Ours, without bias correction | 3.000 |" in text
    assert found.missing == {"the others, short": "not run yet", "New, short": "not run yet"}
    assert "\nOne seed, 0, of chance;" in text
    with pytest.raises(ValueError, match="column 'C' does not exist"):
        some(column_labels={"C": "third"})


def test_a_run_that_cannot_be_read_is_a_missing_cell(tmp_path, finished):
    finished("ours_a", 0, fid_to_fp32=1.0)
    (finished("ours_a", 1, fid_to_fp32=1.0) / "results.json").write_text('{"schema": 7,')
    table = some()
    measured = measure(table, "small", cells(table, "small"), tmp_path)
    assert measured.values["ours", "A", "fid_to_fp32"] == {0: 1.0}
    assert "results.json is damaged (no method); remove that directory" in measured.missing["Ours, A"]


def test_of_equal_means_each_is_the_best(tmp_path, finished):
    for row in ("ours_a", "theirs_a"):
        finished(row, 0, fid_to_fp32=1.0)
    table = some()
    assert measure(table, "small", cells(table, "small"), tmp_path).best("A", "fid_to_fp32") == {"ours", "theirs"}


def test_columns_that_are_numbers_are_drawn(tmp_path, finished):
    table = some(columns=("10", "100"), x="epochs", log_x=True)
    for column, seed in itertools.product((10, 100), (0, 1)):
        for row, value in (("ours", 1.0), ("theirs", 2.0)):
            finished(f"{row}_{column}", seed, fid_to_fp32=value / column + seed / 100)
    drawn = table_curves(measure(table, "small", cells(table, "small"), tmp_path), tmp_path / "t.png")
    assert drawn.stat().st_size > 5000


def test_the_script_prints_commands_and_refuses_what_does_not_exist(script, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reproduce.py", "accuquant_quality", "--dry-run", "--rows", "step", "device=cpu"])
    assert script.main() == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("quantlab -m experiment=accuquant/small_ptq method.reconstruction=step")
    assert "device=cpu seed=0,1,2,3,4 output_dir=outputs/tables/accuquant_quality/digits/step_w4a8" in first
    monkeypatch.setattr(
        "sys.argv", ["reproduce.py", "accuquant_quality", "--dry-run", "--rows", "step", "--seeds", "3"]
    )
    assert script.main() == 0 and " 'seed=choice(3)' " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["reproduce.py", "qat_cifer"])
    assert script.main() == 2
    assert "did you mean 'qat_cifar'?" in capsys.readouterr().err


def test_each_seed_of_accuquants_table_is_judged_on_a_noise_of_its_own():
    (cell,) = cells(load_definition("accuquant_quality"), "digits", ["accuquant"], ["W4A8"])
    assert [composed(*cell.words, f"seed={seed}").task.evaluation.seed for seed in (0, 3)] == [1230, 1233]


def test_a_cell_that_fails_stops_nothing(script, tmp_path, monkeypatch, capsys, finished):
    def run_all(calls, places, ended, waiting):
        for index, (_, (words,), log) in enumerate(calls):
            place = next(Path(word.partition("=")[2]) for word in words if word.startswith("output_dir="))
            fails = place.name == "step_w4a8"
            if fails:
                log.write_text("quantlab: error: device: got cuda\n")
            else:
                finished(place, 0, fid_to_fp32=1.0)
            ended(index, 2 * fails)

    monkeypatch.setattr(script, "run_all", run_all)
    words = ["accuquant_quality", "--seeds", "0", "--columns", "W4A8", "--runs", "r", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce.py", *words, f"data_dir={tmp_path}"])
    assert script.main() == 1
    page = capsys.readouterr().out
    assert "- step by step, W4A8: device: got cuda" in page
    assert "--profile digits data_dir=DIR" in page and str(tmp_path) not in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"accuquant_quality-digits.{kind}" for kind in ("md", "csv", "json")
    }


def test_a_page_over_the_runs_of_a_table(script, tmp_path, monkeypatch, capsys, finished):
    pytest.importorskip("plotly")
    finished("runs/accuquant_quality/digits/step_w4a8", 0, fid_to_fp32=1.0)
    words = ["accuquant_quality", "--render", "--html", "--runs", "runs", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce.py", *words])
    assert script.main() == 0
    assert "<title>quantlab: 1 run</title>" in (tmp_path / "out" / "accuquant_quality-digits.html").read_text()
    out = capsys.readouterr().out
    assert out.startswith("# AccuQuant against its baselines") and "## digits_generation" not in out


@pytest.mark.parametrize(
    "words, said",
    [
        (("--seeds", "0,1,0"), "--seeds: got 0,1,0, allowed: every seed once, as 0,1;"),
        (("--seeds", "a"), "--seeds: got a, allowed: integers from 0 between commas, such as 0,1,2;"),
        (("--workers", "0"), "--workers: got 0, allowed: an integer from 1;"),
        (("--colums", "W2A2"), "unrecognized arguments: --colums W2A2; type reproduce.py --help for all options"),
    ],
)
def test_a_wrong_option_of_the_script_is_one_line(script, monkeypatch, capsys, words, said):
    monkeypatch.setattr("sys.argv", ["reproduce.py", "qat_cifar", *words])
    assert script.main() == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("reproduce: error: ") and err.count("\n") == 1


def test_all_makes_every_table_that_has_the_profile(script, tmp_path, monkeypatch, capsys):
    having = [name for name in TABLES if "smoke" in load_definition(name).profiles]
    assert having == TABLES  # no table is without
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(script, "run", lambda *asked: made.append(asked[-1].table) or int(made[-1] == "qat_deit"))
    monkeypatch.setattr("sys.argv", ["reproduce.py", "all", "--profile", "smoke", "--output", "out"])
    assert script.main() == 1 and made == TABLES
    assert "qat_deit: failed in 0 s, out/qat_deit-smoke.md\n" in capsys.readouterr().out
    for words in (["--profile", "paperr"], [], ["--profile", "smoke", "--rows", "sgd"]):
        monkeypatch.setattr("sys.argv", ["reproduce.py", "all", *words])
        assert script.main() == 2
        err = capsys.readouterr().err
        assert "allowed: " in err and err.endswith("; type all --profile smoke\n") and err.count("\n") == 1


def test_a_wrong_word_for_all_runs_is_found_before_the_first(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce.py", "qat_cifar", "method.epoch=3"])
    assert script.main() == 2 and list(tmp_path.iterdir()) == []
    assert "method.epoch: no such key; did you mean 'method.epochs'?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_smoke_profile_of_a_table_runs(tmp_path, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce.py", "accuquant_quality", "--profile", "smoke", "--output", "out"])
    assert script.main() == 0
    rows = json.loads((tmp_path / "out/accuquant_quality-smoke.json").read_text())["runs"]
    assert {row["row"] for row in rows} >= {"none", "step", "block", "accuquant", "accuquant, uncorrected"}
