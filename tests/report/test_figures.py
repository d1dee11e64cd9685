"""Curves: the files are images, and show what they should."""

import numpy as np
import pytest
from PIL import Image

from quantlab.report.axis_words import bounds_of, words_of
from quantlab.report.curve_styles import line_styles as styles_of
from quantlab.report.figures import (
    compared_training_curves,
    denoising_error,
    draw_layers,
    fid_along_denoising,
    new_panels,
    outlying,
    training_curves,
)
from quantlab.report.panels import step_axis


def series(*names, steps=20):
    along = np.linspace(0.01, 0.2, steps)
    curve = {"step_error": (along / 5).tolist(), "accumulated_error": along.tolist()}
    curve["fid_to_fp32"] = {"step": [1, steps], "value": [0.1, 4.0]}
    return {"timesteps": list(range(steps))[::-1], "group_size": 5, "curves": dict.fromkeys(names, curve)}


def colors(path, at_least=20):
    """Distinct RGB values that cover at least so many pixels."""
    return {color for count, color in Image.open(path).convert("RGB").getcolors(1 << 24) if count >= at_least}


VERMILION, GREY, BOUNDARY = (0xD5, 0x5E, 0x00), (0x77, 0x77, 0x77), (0xDD, 0xDD, 0xDD)


def test_denoising_error_shows_each_curve_and_the_groups(tmp_path):
    path = denoising_error(series("accuquant", "ranges only"), tmp_path / "figures" / "error.png")
    assert colors(path, at_least=100) >= {VERMILION, BOUNDARY}
    width, height = Image.open(path).size
    assert width > 2 * height


def test_without_groups_there_are_no_boundaries(tmp_path):
    path = denoising_error(series("accuquant") | {"group_size": None}, tmp_path / "error.png")
    assert BOUNDARY not in colors(path, at_least=100)


@pytest.mark.parametrize("value", [0.0, None, -1.0])
def test_denoising_error_survives_values_without_a_logarithm(tmp_path, value):
    data = series("accuquant", "block")
    data["curves"]["block"]["step_error"][3] = value
    assert VERMILION in colors(denoising_error(data, tmp_path / "error.png"))


def test_fid_along_denoising_leaves_out_curves_that_were_not_measured(tmp_path):
    data = series("accuquant", "block")
    del data["curves"]["block"]
    data["curves"]["block"] = {"step_error": [0.1] * 20, "accumulated_error": [0.1] * 20}
    path = fid_along_denoising(data, tmp_path / "fid.png")
    assert VERMILION in colors(path)
    assert (0x00, 0x9E, 0x73) not in colors(path)


def test_training_curves_have_one_panel_per_key(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "skipped": None, "note": "text"} for step in range(1, 100)]
    one = Image.open(training_curves(rows, tmp_path / "one.png")).size
    rows = [row | {"a": 1.0, "b": 2} for row in rows]
    three = Image.open(training_curves(rows, tmp_path / "three.png")).size
    assert three == (3 * one[0], one[1])


@pytest.mark.parametrize("losses", [[], [2.0], [None], [-1.0]])
def test_training_curves_of_hardly_anything(tmp_path, losses):
    rows = [{"step": 1, "loss": loss} for loss in losses]
    assert training_curves(rows, tmp_path / "training.png").stat().st_size > 0


def test_compared_runs_are_told_apart(tmp_path):
    losses = {"accuquant": 1, "step": 9}
    runs = {name: [{"step": step, "loss": step + loss} for step in range(1, 9)] for name, loss in losses.items()}
    assert colors(compared_training_curves(runs, tmp_path / "training.png")) >= {VERMILION, (0x00, 0x72, 0xB2)}


def test_a_legend_of_long_labels_is_not_cut_off(tmp_path):
    names = [f"accuquant (some_long_setting=value_{number})" for number in range(5)]
    picture = np.asarray(Image.open(denoising_error(series(*names), tmp_path / "error.png")).convert("L"))
    assert (picture[:, :2] == 255).all() and (picture[:, -2:] == 255).all()


def test_methods_keep_their_order_and_accuquant_is_last_and_strongest():
    styles = styles_of(["accuquant", "accuquant (method.group_size=10)", "ptq/block", "other", "ranges only", "step"])
    assert list(styles)[:3] == ["ranges only", "step", "ptq/block"]
    named = ("accuquant", "ptq/block", "ranges only", "step")
    assert max(styles, key=lambda label: styles[label]["linewidth"]) == "accuquant"
    assert styles["ranges only"]["linestyle"] == "--"
    assert len({styles[label]["color"] for label in named}) == len(named)


def test_what_was_known_before_the_run_gets_no_panel(tmp_path):
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 20)]
    more = [row | {"learning_rate": 0.1, "network_evaluations": 4 * row["step"]} for row in rows]
    plain, same = training_curves(rows, tmp_path / "a.png"), training_curves(more, tmp_path / "b.png")
    assert Image.open(plain).tobytes() == Image.open(same).tobytes()


@pytest.fixture
def axes_of(monkeypatch, tmp_path):
    """axes_of(rows, phases) -> the axes of their training curves, by the words of the vertical axis."""
    from quantlab.report import figures

    found = {}
    plainly = figures.save_panels

    def save(figure, panels, path):
        found.update({axes.get_ylabel(): axes for axes in panels})
        return plainly(figure, panels, path)

    monkeypatch.setattr(figures, "save_panels", save)

    def draw(rows, phases=None):
        found.clear()
        training_curves(rows, tmp_path / "training.png", phases)
        return found

    return draw


def test_axes_have_units_and_ticks_that_exist(axes_of):
    rows = [{"step": step, "validation_top5": 100.0 - step % 2, "loss": 2.0} for step in (1, 2)]
    panels = axes_of(rows)
    axes = panels["validation\ntop-5 accuracy (%)"]
    assert [tick for tick in axes.get_xticks() if tick % 1] == [] and max(axes.get_yticks()) <= 100
    assert list(axes.get_xticks()) == [1, 2] and axes.get_xlabel() == "optimizer step"


def test_values_far_above_all_others_are_told_and_do_not_squeeze_them(axes_of):
    rows = [{"step": step, "effective_step_size": 900.0 if step == 50 else 1.0 + step % 3} for step in range(100)]
    (axes,) = axes_of(rows).values()
    assert axes.get_ylim()[1] < 10 and [text.get_text() for text in axes.texts] == ["↑ up to 900"]


def test_a_mean_is_not_cut_off_and_the_layer_that_is_has_its_name(monkeypatch, tmp_path):
    from quantlab.report import figures

    saved = {}
    monkeypatch.setattr(figures, "save_panels", lambda figure, panels, path: saved.update(axes=panels[0]))
    own = {f"layer{number}": 0.0 for number in range(30)} | {"fc": 90.0}
    rows = [{"step": step, "share": 3.0, "layers/share": own} for step in range(1, 6)]
    figures.layer_curves(rows, {"share": "share"}, {}, tmp_path / "a.png", columns=1)
    assert 3.0 < saved["axes"].get_ylim()[1] < 10
    assert "↑ fc up to 90" in [text.get_text() for text in saved["axes"].texts]


def test_a_line_across_the_panel_is_no_step():
    figure, (axes,) = new_panels(1, columns=1)
    axes.axhline(0)
    axes.plot([60], [1.0])
    step_axis(axes)
    assert list(axes.get_xticks()) == [60]


def test_phases_are_marked_where_they_begin(axes_of):
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 20)]
    (axes,) = axes_of(rows, {0: "single steps", 8: "groups"}).values()
    assert [text.get_text().strip(" →") for text in axes.texts] == ["single steps", "groups"]
    assert [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1] == [0.5, 8.5]


def test_logged_quantities_are_named_in_plain_words_with_bounds():
    assert words_of("loss") == "loss" and words_of("large_gradient_error").endswith("$E(G_L)$")
    assert words_of("validation_map50") == "validation\naverage precision\nat IoU 0.50 (%)"
    assert bounds_of("validation_top1") == (0.0, 100.0) and bounds_of("oscillating_share") == (0.0, 1.0)


def test_only_layers_far_from_the_others_are_named():
    layers = {f"layer{number}": 1.0 + number / 100 for number in range(8)}
    assert outlying(layers, span=2.0) == [] and outlying(layers | {"fc": 3.0}, span=3.0) == ["fc"]


@pytest.mark.parametrize("apart", [0.0, 0.1, 1.0])
def test_names_of_two_outlying_layers_do_not_lie_on_each_other(apart):
    last = {f"layer{number}": 1.0 + number / 100 for number in range(8)} | {"stem.conv1": 5.0, "head.fc": 5.0 - apart}
    rows = [{"step": step, "layers/x": last} for step in (1, 100)]
    figure, (axes,) = new_panels(1, columns=1)
    draw_layers(axes, rows, "x")
    figure.draw_without_rendering()
    one, other = (text.get_window_extent() for text in axes.texts)
    assert {text.get_text() for text in axes.texts} == {"stem.conv1", "head.fc"} and not one.overlaps(other)


def test_a_method_has_one_colour_whatever_stands_beside_it():
    alone, beside = styles_of(["qat/sgdt"]), styles_of(["low_bit", "qat/sgdt", "accuquant (group size 2)", "accuquant"])
    assert alone["qat/sgdt"]["color"] == beside["qat/sgdt"]["color"]
    colors = [beside[label]["color"] for label in ("accuquant", "accuquant (group size 2)", "low_bit", "qat/sgdt")]
    assert colors[0] == "#D55E00" and len(set(colors)) == 4
