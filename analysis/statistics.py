"""Mean and spread over seeds; tests of differences between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# scipy.stats would take half a second to import.
from scipy.special import nctdtr, stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """The mean of n values with half the width of its t-interval, None for n = 1."""

    mean: float
    half_width: float | None
    n: int


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate | None:
    """Return the mean and Student's t-interval, t(n - 1) s / sqrt(n); None without values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    half_width = t_quantile(n - 1, confidence) * deviation(values) / math.sqrt(n)
    return Estimate(mean, half_width, n)


ROUNDING = 1e-9  # far below one image of any test set


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of n >= 2 values, with n - 1.

    It is 0 for values that differ by rounding alone, as differences of fractions of a test set do.
    """
    if max(values) - min(values) < ROUNDING:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def t_quantile(df: int, confidence: float) -> float:
    """Return half the width of a `confidence` interval, in standard errors."""
    return float(stdtrit(df, 0.5 + confidence / 2))


def p_above(values: Sequence[float], bound: float) -> float:
    """Return p of the one-sided t-test that the mean of n >= 2 values is above `bound`.

    A small p says that it is; values without a spread say nothing (0.5).
    """
    s = deviation(values)
    if s == 0:
        return 0.5
    t = (math.fsum(values) / len(values) - bound) / (s / math.sqrt(len(values)))
    return float(stdtr(len(values) - 1, -t))


def has_spread(values: Sequence[float]) -> bool:
    """Return whether values have a spread, without which a t-test says nothing."""
    return len(values) > 1 and deviation(values) > 0


def p_differs(values: Sequence[float]) -> float:
    """Return p of the two-sided t-test that the mean of n >= 2 values is not 0."""
    return 2 * min(p_above(values, 0), p_above([-v for v in values], 0))


def p_within(values: Sequence[float], margin: float) -> float:
    """Return p of the test that the mean is within (-margin, margin).

    Two one-sided t-tests: Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987.
    """
    return max(p_above(values, -margin), p_above([-v for v in values], -margin))


def holm(ps: Sequence[float]) -> list[float]:
    """Return adjusted p-values, in the same order.

    If all below a level are decided, the chance of any wrong decision is at most that level (Holm,
    Scand. J. Stat. 6, 1979).
    """
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


MOST_SEEDS = 1000


def seeds_above(distance: float, s: float, level: float, power: float = 0.8) -> int | None:
    """Return the number of seeds with which a one-sided t-test finds a mean above its bound.

    Cohen, Statistical Power Analysis, 1988, chapter 2.

    Args:
        distance: Of the mean from the bound.
        s: The values' standard deviation.
        level: That of the test.
        power: The share of repetitions in which the test finds it.

    Returns:
        None for more than MOST_SEEDS.
    """

    def found(n: int) -> bool:
        noncentrality = distance / s * math.sqrt(n)
        missed = float(nctdtr(n - 1, noncentrality, stdtrit(n - 1, 1 - level)))
        return not missed > 1 - power  # not a number where it is too small for one

    return _fewest(found) if distance > 0 and s > 0 else None


def seeds_within(distance: float, s: float, level: float, power: float = 0.8) -> int | None:
    """Return an upper bound on the number of seeds that `p_within` needs, as `seeds_above`.

    `distance` is from the mean to the nearer end of the margins. Each of the two tests may miss
    half of what both may, as if both ends were equally near.
    """
    return seeds_above(distance, s, level, (1 + power) / 2)


def _fewest(is_enough: Callable[[int], bool]) -> int | None:
    """Return the smallest n from 2 to MOST_SEEDS for which a monotone condition holds."""
    low, high = 2, MOST_SEEDS
    if not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def sampling_error(accuracy: float, n_images: int) -> float:
    """Return half the width of the 95 % interval that n test images leave to an accuracy.

    Normal approximation of the binomial: 1.96 sqrt(p (1 - p) / n).
    """
    return 1.96 * math.sqrt(accuracy * (1 - accuracy) / n_images)
