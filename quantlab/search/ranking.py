"""How well scores order subnets: rank correlations with the truth, and how many of the best are among the best."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats


def kendall_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b of two `[n]` arrays, from -1 to 1, as the released code (scipy). A constant side gives 0: it orders nothing."""
    return _number(stats.kendalltau(scores, truth).statistic)


def spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation of two `[n]` arrays, from -1 to 1; 0 for a constant side."""
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return _number(stats.spearmanr(scores, truth).statistic)


def precision_at_k(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Fraction of the k best by score that are among the k best by truth; of equal ones the earlier is the better."""
    return len(set(best(scores, k)) & set(best(truth, k))) / min(k, len(scores))


def best(values: np.ndarray, k: int) -> list[int]:
    """Positions of the k largest values, largest first; of equal ones the earlier first."""
    return np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")[:k].tolist()


def rank_metrics(scores: np.ndarray, truth: np.ndarray, ks: tuple[int, ...] = (10, 50)) -> dict[str, float]:
    """`kendall_tau`, `spearman`, and `precision_at_k` for each k smaller than the number of subnets."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    return {"kendall_tau": kendall_tau(scores, truth), "spearman": spearman(scores, truth)} | {
        f"precision_at_{k}": precision_at_k(scores, truth, k) for k in ks if k < len(scores)}


def save_ranking(path: Path, subnets: Sequence[str], scores: Sequence[float], truth: Mapping[str, Sequence[float]], measure: str,
                 complexities: Sequence[float]) -> None:
    """A CSV file with a row per ranked subnet, in the order given: what the rank correlations are computed from.

    subnets: as `model.subnet` takes them. scores: accuracies in the supernet, percent. truth: by name accuracies trained alone, percent.
    complexities: in units of `measure`.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subnet", "top1_in_supernet", *(f"top1_alone_{name}" for name in truth), measure])
        writer.writerows(zip(subnets, scores, *truth.values(), complexities, strict=True))


def _number(statistic: float) -> float:
    return 0.0 if np.isnan(statistic) else float(statistic)
