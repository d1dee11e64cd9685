"""Rank correlations, against values worked out by hand."""

import pytest

from quantlab.search.ranking import best, kendall_tau, precision_at_k, rank_metrics, spearman


def test_kendall_counts_pairs():
    # 1 of the 6 pairs is the wrong way round.
    assert kendall_tau([1, 2, 4, 3], [10, 20, 30, 40]) == pytest.approx((5 - 1) / 6)
    # Tau-b: a tie on one side takes its pair out of that side's count: 5 / sqrt(5 * 6).
    assert kendall_tau([1, 2, 3, 3], [10, 20, 30, 40]) == pytest.approx(5 / (5 * 6) ** 0.5)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1


def test_spearman_is_the_correlation_of_ranks():
    assert spearman([1, 2, 4, 3], [10, 20, 30, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_a_constant_side_orders_nothing():
    assert kendall_tau([1, 1, 1], [1, 2, 3]) == spearman([1, 1, 1], [1, 2, 3]) == spearman([1, 2, 3], [5, 5, 5]) == 0


def test_precision_counts_the_best_among_the_best():
    scores, truth = [9, 8, 7, 1, 2], [9, 1, 7, 8, 2]
    assert best(truth, 3) == [0, 3, 2] and best([1, 2, 2, 0], 2) == [1, 2]
    assert precision_at_k(scores, truth, 1) == 1 and precision_at_k(scores, truth, 3) == pytest.approx(2 / 3)
    assert set(rank_metrics(scores, truth, ks=(1, 3, 5, 50))) == {
        "kendall_tau",
        "spearman",
        "precision_at_1",
        "precision_at_3",
    }
