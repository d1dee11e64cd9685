"""Pictures of a supernet: what should be seen can be seen, and nothing lies on top of anything else."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from quantlab.methods.supernet import figures as pictures
from quantlab.methods.supernet.figures import (
    FAINT_COLOR,
    FAIRNESS,
    MEAN,
    OPERATION_COLORS,
    cell_graph,
    chain_figure,
    fairness_curves,
    noise_curve,
    ranking_scatter,
)
from quantlab.search.mobilenet import MobileNetSpace
from quantlab.search.nas_bench_201 import EDGES, OPERATIONS


def pixels(path, color, tolerance=24):
    """How many pixels are near a hexadecimal color."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=2) <= tolerance).sum())


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved during a test, in order."""
    figures = []

    def save(figure, panels, path, plainly=pictures.save_panels):
        figures.append(figure)
        return plainly(figure, panels, path)

    monkeypatch.setattr(pictures, "save_panels", save)
    return figures


def boxes_of_words(figure):
    """Words and extent in pixels of every text of the only axes, title included."""
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    return [(text.get_text(), text.get_window_extent()) for text in (*axes.texts, axes.title)]


def assert_readable(figure):
    whole = figure.bbox
    boxes = boxes_of_words(figure)
    for (words, box), (others, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), (words, others)
    for words, box in boxes:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, words


def curves_of(figure):
    """The arrows of a cell, in the order of its edges."""
    return [arrow for arrow in figure.axes[0].patches if isinstance(arrow, FancyArrowPatch)]


def points_along(arrow, axes):
    """Float [200, 2]: points of the curve of an arrow, in the units of the axes."""
    p0, p1, p2 = axes.transData.inverted().transform(arrow.get_transform().transform(arrow.get_path().vertices[:3]))
    t = np.linspace(0, 1, 200)[:, None]
    return (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2


def accuracies(count, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(85, 94, count)
    return (truth - 30 + rng.normal(0, 2, count)).tolist(), truth.tolist(), np.geomspace(7e4, 1.5e6, count).tolist()


@pytest.mark.parametrize("count", [1, 2, 12, 15625])
def test_the_scatter_shows_every_subnet_and_says_its_tau(count, drawn, tmp_path):
    path = ranking_scatter(
        *accuracies(count), "cifar10_test", 0.7512, tmp_path / "figures" / "ranking.png", parameters_tau=0.637
    )
    axes = drawn[0].axes[0]
    assert path.is_file() and len(axes.collections[0].get_offsets()) == count
    assert axes.get_title() == f"{count:,} subnets, Kendall's τ = 0.751 (by parameters alone 0.637)"
    assert "supernet" in axes.get_xlabel() and "cifar10_test" in axes.get_ylabel()


def test_the_better_half_is_drawn_again_where_poor_subnets_stretch_the_axis(drawn, tmp_path):
    scores, truth, complexities = accuracies(40)
    ranking_scatter(scores, truth, complexities, "table", 0.5, tmp_path / "a.png")
    ranking_scatter([*scores, 10.0], [*truth, 10.0], [*complexities, 7e4], "table", 0.5, tmp_path / "b.png")
    plain, stretched = ([axes for axes in figure.axes if axes.get_xlabel()] for figure in drawn)
    assert [len(axes.collections[0].get_offsets()) for axes in plain] == [40]
    everything, better = (axes.collections[0].get_offsets()[:, 1] for axes in stretched)
    assert len(everything) == 41 and sorted(better) == sorted(
        value for value in truth if value >= np.median([*truth, 10.0])
    )


@pytest.mark.parametrize(
    ("least", "largest", "scale"),
    [(1e5, 4.9e5, "linear"), (1e5, 5.1e5, "log"), (0, 5e5, "linear"), (1e5, 1e5, "linear")],
)
def test_the_colour_bar_is_logarithmic_over_a_wide_range(least, largest, scale, drawn, tmp_path):
    ranking_scatter(
        [50, 60, 70], [80, 90, 91], [least, largest, largest], "table", 1.0, tmp_path / "a.png", measure="flops"
    )
    bar = drawn[0].axes[-1]
    assert bar.get_yscale() == scale and bar.get_ylabel() == "flops"


def test_fairness_has_a_curve_for_each_complexity_that_was_logged(drawn, tmp_path):
    rows = [
        {"step": step, "loss": 1.0}
        | ({key: 2.0 / (1 + number) for number, key in enumerate(FAIRNESS)} if step % 50 == 0 else {})
        for step in range(10, 500, 10)
    ]
    path = fairness_curves(rows, tmp_path / "figures" / "fairness.png")
    assert all(pixels(path, color) > 200 for _, color, _ in FAIRNESS.values())
    assert [list(line.get_xdata()) for line in drawn[0].axes[0].lines] == [list(range(50, 500, 50))] * 3
    low = [{key: value for key, value in row.items() if key in ("step", "validation_loss_low")} for row in rows]
    assert pixels(fairness_curves(low, tmp_path / "low.png"), FAIRNESS["validation_loss_high"][1]) == 0


def test_the_running_mean_of_the_cosine_is_that_of_its_neighbours(drawn, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"step": step, "momentum_cosine": float(value)} for step, value in enumerate(rng.normal(0.1, 0.2, 80))]
    path = noise_curve(
        [*rows, {"step": 80, "momentum_cosine": None}, {"step": 81, "validation_top1": 50.0}], tmp_path / "noise.png"
    )
    zero, points, mean = drawn[0].axes[0].lines
    assert list(zero.get_ydata()) == [0, 0] and pixels(path, MEAN) > 200
    values = points.get_ydata()
    assert len(values) == 80 and mean.get_ydata()[40] == pytest.approx(values[38:43].mean())
    assert mean.get_ydata()[0] == pytest.approx(values[:3].mean())


@pytest.mark.parametrize("draw", [fairness_curves, noise_curve])
@pytest.mark.parametrize(
    "rows", [[], [{"step": 1, "loss": 1.0}], [{"step": 1, "momentum_cosine": None, "validation_loss_low": None}]]
)
def test_what_was_not_logged_leaves_no_file(draw, rows, tmp_path):
    assert draw(rows, tmp_path / "a.png") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("draw", [fairness_curves, noise_curve])
def test_a_single_point_can_be_seen(draw, tmp_path):
    path = draw([{"step": 1, "momentum_cosine": 0.2, "validation_loss_low": 2.3}], tmp_path / "a.png")
    assert pixels(path, "#56B4E9", 60) > 20


@pytest.mark.parametrize("subnet", [(3, 3, 3, 1, 2, 3), (0,) * 6, (4,) * 6, (4, 0, 2, 3, 0, 1)])
def test_a_cell_shows_its_operations_and_no_words_overlap(subnet, drawn, tmp_path):
    names = [OPERATIONS[operation] for operation in subnet]
    path = cell_graph(
        names, EDGES, "nas_bench_201 " + "-".join(map(str, subnet)), tmp_path / "figures" / "found_subnet.png"
    )
    assert_readable(drawn[0])
    words = [text.get_text() for text in drawn[0].axes[0].texts]
    assert words == ["input", "1", "2", "output", *names]
    for name, color in OPERATION_COLORS.items():
        if name in OPERATIONS:
            assert (pixels(path, color) > 300) == (name in names), name
    dashed = [curve.get_linestyle() == "--" for curve in curves_of(drawn[0])]
    assert dashed == [name == "none" for name in names]


def test_words_of_a_cell_stand_at_their_own_edge_and_no_other_runs_through_them(drawn, tmp_path):
    cell_graph(["nor_conv_3x3"] * len(EDGES), EDGES, "cell", tmp_path / "cell.png")
    axes = drawn[0].axes[0]
    words = boxes_of_words(drawn[0])[4:-1]  # without the nodes and the title
    for number, curve in enumerate(curves_of(drawn[0])):
        points = points_along(curve, axes)
        distances = [np.hypot(*(points - axes.texts[4 + other].get_position()).T).min() for other in range(len(EDGES))]
        assert np.argmin(distances) == number and distances[number] < 0.12
        pixels_along = axes.transData.transform(points)
        assert not any(
            box.contains(*point) for other, (_, box) in enumerate(words) if other != number for point in pixels_along
        )


@pytest.mark.parametrize("layers", [2, 21])
def test_a_chain_shows_every_layer_and_no_words_overlap(layers, drawn, tmp_path):
    space = MobileNetSpace()
    subnet = (5, 6, 0, 1, 2, 3, 4, *space.sample(np.random.default_rng(0))[7:])[:layers]
    names = [space.operations[operation] for operation in subnet]
    path = chain_figure(
        names, space.decisions[:layers], f"mobilenet {'-'.join(map(str, subnet))}", tmp_path / "figures" / "chain.png"
    )
    assert_readable(drawn[0])
    words = [text.get_text() for text in drawn[0].axes[0].texts]
    assert words == [word for pair in zip(names, space.decisions, strict=False) for word in pair]
    assert all(pixels(path, OPERATION_COLORS[name]) > 2000 for name in set(names) - {"identity"})
    assert pixels(path, FAINT_COLOR, 8) > 100


def test_every_operation_of_both_spaces_has_a_colour_of_its_own_there():
    for operations in (OPERATIONS, MobileNetSpace.operations):
        assert len({pictures._color(name) for name in operations}) == len(operations)
