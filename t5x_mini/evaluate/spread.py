"""A score over several seeds: its mean, and how far they are apart."""

from __future__ import annotations

import dataclasses
import math
import statistics


@dataclasses.dataclass(frozen=True)
class Spread:
    """Values over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def is_above(self, chance: float) -> bool:
        """Whether the mean is above chance by more than twice the deviation. Of one seed nobody knows."""
        return self.mean - chance > 2 * self.deviation  # False for NaN

    def text(self, digits: int = 1) -> str:
        """`'45.2 ± 3.1'`; of one seed the value alone."""
        mean = f"{self.mean:.{digits}f}"
        return mean if math.isnan(self.deviation) else f"{mean} ± {self.deviation:.{digits}f}"
