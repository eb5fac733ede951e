"""Mean and spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit  # scipy.stats would take half a second to import


@dataclass(frozen=True)
class Estimate:
    """mean of n values; half_width of its t-interval, None for n = 1."""

    mean: float
    half_width: float | None
    n: int

    def percent(self) -> str:
        """'98.43 ± 0.31 (3)'; without a spread for one seed."""
        spread = "" if self.half_width is None else f" ± {100 * self.half_width:.2f}"
        return f"{100 * self.mean:.2f}{spread} ({self.n})"


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate | None:
    """Student's t-interval of the mean: t(n - 1) s / sqrt(n). None for no values at all."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    quantile = float(stdtrit(n - 1, 0.5 + confidence / 2))
    return Estimate(mean, quantile * deviation / math.sqrt(n), n)
