"""The space of a search, from the overrides of Hydra's sweep syntax: choices, ranges, intervals, logarithmic or not."""

import math
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep


@dataclass(frozen=True)
class Dimension:
    """One key of a search. `values`: the words it may take; or else from `low` to `high`, both included, by `step`."""

    key: str
    values: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: int | None = None
    log: bool = False

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def first(self) -> Any:
        return self.values[0] if self.values else self.low

    @property
    def corners(self) -> list[str]:
        return list(self.values) or [self.word(self.low), self.word(self.high)]

    def word(self, value: Any) -> str:
        """The value as it is typed."""
        return str(value) if self.values else repr(value)

    def distribution(self) -> Any:
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution(self.values)
        if self.is_integer:
            return distributions.IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)
        return distributions.FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def dimension_of(override: Override) -> Dimension | str:
    """The dimension that an override with several values means, or what is wrong with it."""
    key, swept = override.get_key_element(), override.value()
    log = "log" in getattr(swept, "tags", ())
    if isinstance(swept, IntervalSweep):
        low, high, step = swept.start, swept.end, None
    elif isinstance(swept, RangeSweep) and not swept.shuffle:
        low, step = swept.start, swept.step
        if step <= 0 or not math.isfinite(swept.stop) or swept.stop <= low:
            return f"holds no ascending values; type {key}=range(1,9)"
        count = math.ceil((swept.stop - low) / step) - 1  # its end is not in it
        high = low + count * step
        step = None if log else step
    else:
        return Dimension(key, tuple(override.sweep_string_iterator()))
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        return f"allowed: an interval from a number to a larger one; type {key}=interval(0.1,0.9)"
    if log and low <= 0:
        return f"a logarithmic space begins above 0; type {key}=tag(log,interval(0.001,1))"
    return Dimension(key, (), low, high, step, log)
