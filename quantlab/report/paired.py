"""Whether two rows of a table differ by more than chance: paired tests over the seeds that both have.

A seed fixes what both rows share (the calibration, the order of the data, the noise), so that the difference of a pair
varies less than either number. Distances (`Metric.is_distance`), whose scatter grows with them, are compared by the
logarithm of their ratio, everything else by the difference. The test is Student's t for paired samples, two-sided:
with the three to six seeds of our tables a rank test can hardly fall below .05. Over all comparisons of a table p is
Holm's (1979), which bounds the chance of a single false claim in it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from quantlab.report.metrics import METRICS, format_number
from quantlab.report.table import Spread, spread


class Comparison(NamedTuple):
    """difference: of `row` minus `other` over the seeds of both, or where `is_ratio` of their natural logarithms; wins:
    in how many seeds `row` is better; p: of the paired t-test, None for fewer than two seeds; holm: p after Holm's
    correction over the table.
    """

    row: str
    other: str
    column: str
    metric: str
    difference: Spread
    is_ratio: bool
    wins: int
    p: float | None
    holm: float | None = None

    def __str__(self) -> str:
        """`-0.41 ± 0.1`, or a ratio as `× 0.66 (×÷ 1.1)`: the geometric mean, and the factor of one deviation."""
        if not self.is_ratio:
            return str(self.difference)
        mean, deviation = self.difference.mean, self.difference.deviation
        text = f"× {format_number(math.exp(mean), digits=2)}"
        return text if deviation is None else f"{text} (×÷ {format_number(math.exp(deviation), digits=2)})"


def compare(
    row: str, other: str, column: str, metric: str, ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Comparison | None:
    """ours, theirs: values by seed. None where no seed has both."""
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return None
    is_ratio = METRICS[metric].is_distance and all(min(pair) > 0 for pair in pairs)
    differences = [math.log(one / other_) if is_ratio else one - other_ for one, other_ in pairs]
    sign = 1 if METRICS[metric].better == "↑" else -1
    wins = sum(sign * one > 0 for one in differences)
    return Comparison(row, other, column, metric, spread(differences), is_ratio, wins, _p_value(differences))


def _p_value(differences: Sequence[float]) -> float | None:
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return None
    if len(set(differences)) == 1:  # no spread to test against
        return 0.0 if differences[0] else 1.0
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0.0).pvalue)


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons in their order, with p corrected for how many there are."""
    tested = sorted((one.p, place) for place, one in enumerate(comparisons) if one.p is not None)
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[place] = largest
    return [one._replace(holm=corrected.get(place)) for place, one in enumerate(comparisons)]
