"""Numbers of the comparison: exact means, and what is never averaged."""

import csv
import json
import math

import pytest

from quantlab.report.baselines import baseline_rows
from quantlab.report.compared import run_tables
from quantlab.report.metrics import format_bits, format_number
from quantlab.report.runs import read_run
from quantlab.report.table import Spread, aggregate, comparison_rows, spread
from quantlab.report.table_formats import to_csv, to_markdown
from quantlab.report.whole_report import Chosen, Report


def rows_of(*directories):
    return comparison_rows([read_run(directory) for directory in directories])


def shown(rows):
    """The Markdown of rows of one task and protocol, in the columns that matter there."""
    (table,) = run_tables(rows)
    return to_markdown(rows, table.columns(rows))


def test_mean_and_sample_standard_deviation_over_seeds(make_run):
    # 1, 2, 6: mean 3, deviations -2, -1, 3: variance (4 + 1 + 9) / 2 = 7.
    rows = rows_of(*(make_run(f"s{seed}", seed=seed, metrics={"fid": fid}) for seed, fid in enumerate([1.0, 2.0, 6.0])))
    (mean,) = aggregate(rows)
    assert mean["fid"] == Spread(3.0, pytest.approx(math.sqrt(7)), 3)
    assert (mean["method"], mean["bits"], mean["seeds"], mean["n"]) == ("accuquant", "W4A8", "0, 1, 2", 3)
    assert mean["seconds"].mean == 93.125
    assert mean["peak_mib"] == Spread(700.0, 0.0, 3)


def test_one_seed_has_no_deviation():
    assert str(spread([1.25])) == "1.250"
    assert str(Spread(1.25, 0.5, 2)) == "1.250 ± 0.50"


def test_notes_stand_in_the_row_and_part_no_rows(make_run):
    directories = [make_run(f"s{seed}", seed=seed, metrics={"fid": 1.0 + seed}) for seed in range(3)]
    for directory, notes in zip(directories, (["in 2 layers"], ["in 3 layers"], [])):
        file = directory / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | ({"notes": notes} if notes else {})))
    rows = rows_of(*directories)
    (mean,) = aggregate(rows)
    assert mean["n"] == 3 and mean["notes"] == "in 2 layers; in 3 layers"
    assert "| notes |" in shown([mean]) and "| in 2 layers; in 3 layers |" in shown([mean])
    assert "notes" not in shown(aggregate(rows[2:]))


def test_what_a_run_gives_without_a_part_of_its_method_is_a_row_of_its_own(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, metrics={"fid": 1.0 + seed})) for seed in range(2)]
    for run in runs:
        run["config"]["method"] |= {"_target_": "quantlab.methods.accuquant.AccuQuant", "name": "accuquant"}
        run["results"]["baseline"] = {"uncorrected": {"fid": 5.0 + run["results"]["seed"]}, "ranges_only": {"fid": 9.0}}
    rows = comparison_rows(runs)
    own, without, ranges = aggregate([*rows, *baseline_rows(runs, rows)])
    assert (ranges["method"], ranges["fid"], ranges["seeds"]) == ("ranges only", Spread(9.0, None, 1), "")
    assert (own["method"], own["fid"].mean, own["n"]) == ("accuquant", 1.5, 2)
    assert (without["method"], without["fid"].mean, without["n"]) == ("accuquant, uncorrected", 5.5, 2)
    assert "seconds" in own and "seconds" not in without


def test_a_seed_counts_once(make_run):
    (mean,) = aggregate(rows_of(*(make_run(f"r{i}", seed=7, metrics={"fid": 4.0}) for i in range(2))))
    assert mean["fid"] == Spread(4.0, None, 1)


def test_fids_of_different_protocols_are_never_averaged(make_run):
    rows = rows_of(
        make_run("few", seed=0, metrics={"fid": 9.0}, protocol={"samples": 64, "fid_features": "task_classifier"}),
        make_run("many", seed=1, metrics={"fid": 1.0}, protocol={"samples": 1024, "fid_features": "task_classifier"}),
        make_run("inception", seed=2, metrics={"fid": 5.0}, protocol={"samples": 1024, "fid_features": "inception"}),
    )
    means = aggregate(rows)
    assert [row["fid"].mean for row in means] == [9.0, 1.0, 5.0]
    assert all(row["n"] == 1 for row in means)
    titles = [table.title for table in run_tables(rows)]
    assert titles == [
        "digits_generation (samples 64, fid features task_classifier)",
        "digits_generation (samples 1024, fid features task_classifier)",
        "digits_generation (samples 1024, fid features inception)",
    ]


def test_runs_of_other_settings_are_never_averaged_and_say_what_differs(make_run):
    rows = rows_of(
        make_run("a", seed=0, metrics={"fid": 1.0}, settings={"group_size": 5, "iterations": 400}),
        make_run("b", seed=1, metrics={"fid": 3.0}, settings={"group_size": 10, "iterations": 400}),
    )
    assert [row["settings"] for row in rows] == [{"method.group_size": 5}, {"method.group_size": 10}]
    assert [row["fid"].mean for row in aggregate(rows)] == [1.0, 3.0]


def test_reconstruction_is_part_of_the_method(make_run):
    kinds = ("step", "block")
    runs = [make_run(kind, method="ptq", metrics={"fid": 1.0}, settings={"reconstruction": kind}) for kind in kinds]
    rows = rows_of(*runs)
    assert [(row["method"], row["settings"]) for row in rows] == [("ptq/step", {}), ("ptq/block", {})]


@pytest.mark.parametrize(
    "method, key, other",
    [("low_bit", "optimizer", "adam"), ("low_bit", "decay", "cosine"), ("qat", "decay_every", "step")],
)
def test_what_a_methods_name_does_not_tell_is_a_setting(make_run, method, key, other):
    """Keys that the variant of another method tells, or begin as one of them, are settings all the same."""
    runs = [
        make_run(value, method=method, metrics={"top1": 50.0}, settings={"schedule": "learning_rate", key: value})
        for value in ("sgd", other)
    ]
    assert [row["settings"] for row in rows_of(*runs)] == [{f"method.{key}": "sgd"}, {f"method.{key}": other}]


@pytest.mark.parametrize("method, averaged", [("low_bit", True), ("pretrain", True), ("qat", False)])
def test_a_seed_of_full_precision_that_follows_the_runs_own_is_no_setting(make_run, method, averaged):
    runs = [
        make_run(f"s{seed}", method=method, seed=seed, metrics={"top1": 50.0}, model={"pretrain": {"seed": seed}})
        for seed in (0, 1)
    ]
    assert len(aggregate(rows_of(*runs))) == (1 if averaged else 2)


def test_sampler_rate_and_momentum_are_part_of_a_supernets_method(make_run):
    def row_of(name, **more):
        settings = {
            "sampler": "spos",
            "calr": True,
            "decay": "cosine",
            "momentum_separation": True,
            "gamma_max": 4.0,
        } | more
        return make_run(name, method="supernet", metrics={"kendall_tau": 0.7}, settings=settings)

    plain = {"calr": False, "momentum_separation": False}
    rows = rows_of(
        row_of("both"),
        row_of("none", **plain),
        row_of("released", sampler="fairnas", **plain | {"decay": "constant"}),
        row_of("both_again", gamma_max=3.0),
    )
    assert [row["method"] for row in rows] == [
        "supernet/spos+calr+ms",
        "supernet/spos",
        "supernet/fairnas+constant",
        "supernet/spos+calr+ms",
    ]
    assert [row["settings"] for row in rows] == [{"method.gamma_max": 4.0}, {}, {}, {"method.gamma_max": 3.0}]


def test_missing_and_non_finite_values_stay_visible(make_run):
    rows = rows_of(
        make_run("a", seed=0, metrics={"fid": 1.0, "psnr": 20.0}),
        make_run("b", seed=1, metrics={"fid": float("nan"), "psnr": None}),
    )
    (mean,) = aggregate(rows)
    assert math.isnan(mean["fid"].mean)
    table = shown([mean])
    assert "| nan" in table and "20.00 (n=1)" in table


def test_unfinished_runs_are_rows_but_no_numbers(make_run):
    rows = rows_of(make_run("a", metrics={"fid": 1.0}), make_run("b", seed=1, state="interrupted"))
    facts = [rows[1][name] for name in ("method", "bits", "seed", "state")]
    assert facts == ["accuquant", "W4A8", 1, "interrupted"]
    assert [row["n"] for row in aggregate(rows)] == [1]


def test_markdown_has_a_column_per_metric_and_says_once_what_all_runs_share(make_run):
    rows = rows_of(make_run("a", metrics={"psnr": 24.125, "fid_to_fp32": 1.9, "new_metric": 3}))
    text = Report(rows).text("markdown")
    title, _, shared, protocol, _, header, rule, row = text.splitlines()
    assert title == "## digits_generation" and shared == "All runs: ddim, W4A8."
    assert protocol == "Protocol: 1024 samples; FID on the features of task_classifier."
    names = [cell.strip() for cell in header.strip("|").split("|")]
    assert names[:-1] == [*("method", "seed", "fid_to_fp32 ↓", "psnr (dB) ↑", "new_metric", "seconds", "peak MiB")]
    assert header.count("|") == rule.count("|") == row.count("|")
    assert "| 1.900 | 24.12 | 3 | 93.12 | 700.0 |" in row


def test_csv_keeps_full_precision(make_run):
    rows = rows_of(make_run("a", metrics={"fid": 0.1 + 0.2}), make_run("b", seed=1, metrics={"fid": 0.3}))
    lines = list(csv.DictReader(to_csv(rows, ["method", "fid"]).splitlines()))
    assert [float(line["fid"]) for line in lines] == [0.1 + 0.2, 0.3]
    (mean,) = csv.DictReader(to_csv(aggregate(rows), ["method", "fid"]).splitlines())
    assert float(mean["fid"]) == pytest.approx(0.3)
    assert float(mean["fid_sd"]) == pytest.approx(0.0, abs=1e-12)


def test_a_baseline_that_no_setting_changes_is_one_row_and_any_other_stays_with_its_run(make_run):
    def run_of(size, **baseline):
        return make_run(f"g{size}", metrics={"fid": 1.0}, settings={"group_size": size}, baseline=baseline)

    runs = [read_run(run_of(size, full_precision={"fid": 0.5}, ranges={"fid": float(size)})) for size in (1, 2)]
    rows = comparison_rows(runs)
    found = {row["method"]: (row["fid"], row["bits"], row["settings"]) for row in baseline_rows(runs, rows)[:1]}
    assert found == {"full precision": (0.5, "", {})}
    others = baseline_rows(runs, rows)[1:]
    assert [(row["method"], row["settings"]) for row in others] == [
        ("accuquant, ranges", {"method.group_size": 1}),
        ("accuquant, ranges", {"method.group_size": 2}),
    ]


def test_groups_by_a_key_average_all_their_runs_and_never_a_baseline(make_run):
    settings = [(5, 1), (5, 2), (10, 1)]
    runs = [
        read_run(
            make_run(
                f"{size}_{iterations}",
                metrics={"fid": float(size * iterations)},
                settings={"group_size": size, "iterations": iterations},
                baseline={"full_precision": {"fid": 0.5}},
            )
        )
        for size, iterations in settings
    ]
    rows = comparison_rows(runs)
    report = Report([*rows, *baseline_rows(runs, rows)], Chosen(group_by=("method.group_size",), sort=("fid",)))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.text("markdown").splitlines()]
    assert ["method", "group_size", "n", "fid ↓", "seconds", "peak MiB"] in lines
    assert [line[:4] for line in lines[-3:]] == [
        ["full precision", "–", "1", "0.5000"],
        ["accuquant", "5", "2", "7.500 ± 3.5"],
        ["accuquant", "10", "1", "10.00"],
    ]


def test_json_has_every_table_and_latex_escapes_names(make_run):
    rows = rows_of(
        make_run("a_b", method="low_bit", metrics={"top1": float("nan"), "fid": 2.0}), make_run("c", state="failed")
    )
    content = json.loads(Report(rows).text("json"))
    (table,) = content["tables"]
    assert table["runs"][0]["top1"] is None and table["means"][0]["fid"] == {"mean": 2.0, "deviation": None, "n": 1}
    assert [run["state"] for run in content["not_completed"]] == ["failed"]
    latex = Report(rows).text("latex")
    assert r"low\_bit & 0 & nan & 2.000" in latex and r"top1 (\%) $\uparrow$" in latex and r"\toprule" in latex


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.9, "1.900"), (93.125, "93.12"), (0.000123456, "0.0001235"), (1.2345e-6, "1.234e-06"), (12345.6, "12346"),
     (7, "7"), (123456, "123456"), (0.0, "0"), (None, "–"), (float("inf"), "inf"), (1234.5, "1234"), (-2.5, "-2.500")],
)  # fmt: skip
def test_numbers_have_four_significant_digits(value, text):
    assert format_number(value) == text


def test_bits_are_written_as_in_papers():
    assert format_bits({"weight": 4, "activation": 8, "gradient": 32}) == "W4A8"
    assert format_bits({"weight": 8, "activation": 8, "gradient": 5}) == "W8A8G5"
    assert format_bits({"weight": 32, "activation": 32, "gradient": 32}) == "FP32"
