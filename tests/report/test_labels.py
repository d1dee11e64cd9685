"""Labels of runs: unique, and no longer than they must be."""

from quantlab.report.labels import short_labels


def test_a_label_says_the_fewest_facts_that_tell_runs_apart():
    facts = [{"a.x": one, "a.twice_x": 2 * one, "b.y": 0} for one in (1, 2, 3)]
    assert short_labels(["m"] * 3, facts) == ["m (x 1)", "m (x 2)", "m (x 3)"]


def test_equal_runs_share_a_label_and_methods_need_no_facts():
    assert short_labels(["m", "m", "n"], [{"x": 1}, {"x": 1}, {"x": 2}]) == ["m", "m", "n"]


def test_two_facts_are_said_where_one_is_not_enough():
    facts = [{"a.bits": a, "b.bits": b} for a in (2, 4) for b in (2, 4)]
    labels = short_labels(["m"] * 4, facts)
    assert labels[1] == "m (a.bits 2, b.bits 4)" and len(set(labels)) == 4


def test_long_values_are_cut_and_stay_unique():
    labels = short_labels(["m"] * 2, [{"path": f"{'x' * 80}{end}"} for end in "ab"])
    assert len(set(labels)) == 2 and max(map(len, labels)) < 50


def test_what_a_run_lacks_is_not_said():
    assert short_labels(["m", "m"], [{"x": 1}, {}]) == ["m (x 1)", "m"]
