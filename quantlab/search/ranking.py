"""How well scores order subnets: rank correlations with the truth, and precision at k."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from quantlab.search.truth import TruthTable


@dataclass(frozen=True)
class Ranking:
    """How well scores, and complexities, order subnets.

    main: the column of accuracies that they are compared with; truth: columns by name, float64 `[n]` in percent, the
    main one first; metrics, by_complexity: `rank_metrics` of the scores and of the complexities against the main
    column, and Kendall's tau against each other column, `kendall_tau_NAME`.
    """

    main: str
    truth: Mapping[str, np.ndarray]
    scores: Sequence[float]
    complexities: Sequence[float]
    metrics: dict[str, float]
    by_complexity: dict[str, float]


def rank(
    truth: TruthTable, indices: np.ndarray, scores: Sequence[float], complexities: Sequence[float], column: str | None
) -> Ranking:
    """The ranking of the subnets `indices`. column: the main one, by default the table's first. Raises RequestError as
    `lookup`.
    """
    main = column if column is not None else next(iter(truth.accuracies))
    columns = {name: truth.lookup(name, indices) for name in (main, *other_columns(truth, main))}

    def metrics(order: Sequence[float]) -> dict[str, float]:
        order = np.array(order, dtype=float)
        others = {
            f"kendall_tau_{name}": rank_metrics(order, values)["kendall_tau"]
            for name, values in columns.items()
            if name != main
        }
        return rank_metrics(order, columns[main]) | others

    return Ranking(main, columns, scores, complexities, metrics(scores), metrics(complexities))


def other_columns(truth: TruthTable, main: str) -> list[str]:
    """The table's other columns for the same kind of split: for cifar10_test cifar100_test, but not cifar10_valid."""
    split = next((ending for ending in ("_test", "_valid") if main.endswith(ending)), "")
    return [name for name in truth.accuracies if name != main and name.endswith(split)]


def kendall_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b of two `[n]` arrays, from -1 to 1, as in the released code (scipy); 0 if either side is
    constant.
    """
    return _number(stats.kendalltau(scores, truth).statistic)


def spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation of two `[n]` arrays, from -1 to 1; 0 if either side is constant."""
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return _number(stats.spearmanr(scores, truth).statistic)


def precision_at_k(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Fraction of the k best by score that are among the k best by truth; ties go to the earlier one."""
    return len(set(best(scores, k)) & set(best(truth, k))) / min(k, len(scores))


def best(values: np.ndarray, k: int) -> list[int]:
    """Positions of the k largest values, largest first; ties go to the earlier one."""
    return np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")[:k].tolist()


def rank_metrics(scores: np.ndarray, truth: np.ndarray, ks: tuple[int, ...] = (10, 50)) -> dict[str, float]:
    """`kendall_tau`, `spearman`, and `precision_at_k` for each k smaller than the number of subnets."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    return {"kendall_tau": kendall_tau(scores, truth), "spearman": spearman(scores, truth)} | {
        f"precision_at_{k}": precision_at_k(scores, truth, k) for k in ks if k < len(scores)
    }


def save_ranking(
    path: Path,
    subnets: Sequence[str],
    scores: Sequence[float],
    truth: Mapping[str, Sequence[float]],
    measure: str,
    complexities: Sequence[float],
) -> None:
    """Write a CSV file with a row per ranked subnet, in the given order: the input of the rank correlations.

    subnets: in the form of `model.subnet`. scores: accuracies in the supernet, percent. truth: accuracies trained
        alone, percent, by name.
    complexities: in units of `measure`.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subnet", "top1_in_supernet", *(f"top1_alone_{name}" for name in truth), measure])
        writer.writerows(zip(subnets, scores, *truth.values(), complexities, strict=True))


def _number(statistic: float) -> float:
    return 0.0 if np.isnan(statistic) else float(statistic)
