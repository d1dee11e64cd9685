"""Curves of several runs: averaged over seeds only."""

from quantlab.report.overlay import denoising_overlays, training_overlays


def row(seed=0, bits="W4A8", method="accuquant", **settings):
    what = {"task": "t", "model": "m", "bits": bits, "protocol": {}}
    return what | {"method": method, "seed": seed, "settings": settings}


def series(name, error, group_size=5):
    curve = {"step_error": [error] * 2, "accumulated_error": [error, 2 * error]}
    curve["fid_to_fp32"] = {"step": [2], "value": [error]}
    return {"timesteps": [9, 4], "group_size": group_size, "curves": {name: curve}}


def test_curves_are_averaged_over_seeds():
    overlays = denoising_overlays([(row(0), series("accuquant", 1.0)), (row(1), series("accuquant", 3.0))])
    assert overlays == {"t_m_W4A8": series("accuquant", 2.0)}


def test_other_bits_are_another_figure():
    overlays = denoising_overlays([(row(), series("accuquant", 1.0)), (row(bits="W3A6"), series("accuquant", 3.0))])
    assert list(overlays) == ["t_m_W4A8", "t_m_W3A6"]


def test_a_baseline_that_two_methods_share_is_one_curve():
    runs = [(row(method="ptq/step"), series("ranges only", 1.0)), (row(), series("ranges only", 1.0))]
    assert denoising_overlays(runs)["t_m_W4A8"]["curves"].keys() == {"ranges only"}


def test_other_settings_are_other_curves_without_common_boundaries():
    runs = [(row(**{"method.group_size": size}), series("accuquant", size, size)) for size in (1, 2)]
    overlay = denoising_overlays(runs)["t_m_W4A8"]
    assert list(overlay["curves"]) == ["accuquant (group size 1)", "accuquant (group size 2)"]
    assert overlay["group_size"] is None


def test_training_curves_are_labelled_with_bits_where_those_differ():
    runs = [(row(), []), (row(bits="W3A6"), [])]
    assert list(training_overlays(runs)["t"]) == ["accuquant (bits W4A8)", "accuquant (bits W3A6)"]
    assert list(training_overlays(runs[:1])["t"]) == ["accuquant"]


def test_runs_of_another_protocol_or_task_are_another_figure():
    runs = [(row() | {"protocol": {"samples": n}}, [{"step": 1, "loss": float(n)}]) for n in (64, 1024)]
    runs.append((row() | {"task": "u", "protocol": {"samples": 64}}, [{"step": 1, "loss": 3.0}]))
    overlays = training_overlays(runs)
    assert {name: curves["accuquant"][0]["loss"] for name, curves in overlays.items()} == {
        "t": 64.0,
        "t_2": 1024.0,
        "u": 3.0,
    }


def test_runs_of_another_length_are_another_curve():
    runs = [
        (row(seed), [{"step": step, "loss": 1.0} for step in range(1, length + 1)]) for seed, length in ((0, 2), (1, 3))
    ]
    assert list(training_overlays(runs)["t"]) == ["accuquant (length 2 steps)", "accuquant (length 3 steps)"]


def test_training_curves_are_averaged_over_seeds_step_by_step():
    runs = [
        (row(0), [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]),
        (row(1), [{"step": 1, "loss": 4.0}, {"step": 2, "loss": None}]),
    ]
    assert training_overlays(runs)["t"]["accuquant"] == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.0}]
