"""The power of an experiment's comparisons, and the number of seeds that they need.

The simulation draws the quantities that the rule is computed from (the mean of the paired
differences and their spread over seeds), not single images. Nothing here knows about files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from harness.analysis.statistics import LEVEL, holm

Floats = NDArray[np.float64]

ENOUGH = 0.8  # power
REPETITIONS = 2000
MOST_PLANNED = 100  # seeds of an experiment


@dataclass(frozen=True)
class AssumedEffect:
    """The assumed effect of a claim in one column, as fractions.

    Attributes:
        difference: The true difference of the two sides.
        spread: The standard deviation over seeds of the paired difference.
        image_error: The standard deviation of the difference over test sets of this size; no number
            of seeds makes it smaller.
        margin: That of the claim.
        is_greater: Whether the left side must exceed the right one by more than the margin;
            otherwise they must differ by less than it.
    """

    difference: float
    spread: float
    image_error: float = 0.0
    margin: float = 0.0
    is_greater: bool = True


def power(
    comparisons: Sequence[AssumedEffect],
    n_seeds: int,
    *,
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
) -> list[float]:
    """Return the share of repetitions in which each claim is decided as its difference says.

    A claim whose difference fulfils it is to be supported, any other one contradicted.

    The comparisons are drawn independently and tested together, as `verdicts` does
    (statistics.crossed_mean), in both directions and with Holm's correction. The image term is
    taken as known: it is estimated from as many values as there are test images.
    """
    if n_seeds < 2 or not comparisons:
        return [0.0] * len(comparisons)
    random = np.random.default_rng(0)
    values = [(c.difference, c.spread, c.image_error, c.margin) for c in comparisons]
    difference, spread, image_error, margin = np.array(values).T
    shape, df = (repetitions, len(comparisons)), n_seeds - 1
    of_seeds = np.maximum(spread**2 / n_seeds * random.chisquare(df, shape) / df, 1e-30)
    error = np.sqrt(spread**2 / n_seeds + image_error**2)
    mean = difference + error * random.standard_normal(shape)
    variance = of_seeds + image_error**2

    def p_of(distance: Floats) -> Floats:
        """Return the one-sided p-values for distances from the bound to the mean."""
        crossed = stdtr(df * (variance / of_seeds) ** 2, distance / np.sqrt(variance))
        return np.asarray(np.maximum(crossed, stdtr(df, distance / np.sqrt(of_seeds))))

    above, below = p_of(margin - mean), p_of(mean - margin)
    is_greater = np.array([c.is_greater for c in comparisons])
    p_for = np.where(is_greater, above, np.maximum(p_of(-margin - mean), below))
    p_against = np.where(is_greater, below, np.minimum(above, p_of(mean + margin)))
    decided = holm(np.minimum(1, 2 * np.minimum(p_for, p_against))) <= level
    is_true = np.where(is_greater, difference >= margin, np.abs(difference) < margin)
    return [float(share) for share in (decided & ((p_for < p_against) == is_true)).mean(0)]


def fewest_seeds(comparisons: Sequence[AssumedEffect]) -> int | None:
    """Return the fewest seeds at which each comparison has enough power.

    Returns:
        None for more than MOST_PLANNED.
    """

    def is_enough(n: int) -> bool:
        return min(power(comparisons, n)) >= ENOUGH

    low, high = 2, MOST_PLANNED
    if not comparisons or not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def seeds_to_decide(
    observed: AssumedEffect, n_seeds: int, level: float, share: float = 0.8
) -> tuple[float, float]:
    """Return the range of seeds that would decide an undecided comparison with enough power.

    The observed difference and spread are estimates: the range covers the middle `share` of what
    is drawn for them, normal and chi-square around what was observed. The number for given values
    is Guenther's approximation of a one-sided t-test's (The American Statistician 35, 1981).

    Args:
        observed: The difference and spread of n_seeds seeds.
        n_seeds: Behind what was observed.
        level: Of each one-sided test.
        share: Of the draws in the range.

    Returns:
        The lower and the upper end; infinite if no number of seeds decides it.
    """
    random = np.random.default_rng(0)
    df = n_seeds - 1
    variance = observed.spread**2 * df / random.chisquare(df, REPETITIONS)
    error = np.sqrt(variance / n_seeds + observed.image_error**2)
    mean = observed.difference + error * random.standard_normal(REPETITIONS)
    if not observed.is_greater:
        mean = np.abs(mean)
    distance = mean - observed.margin
    # Inside the margins, each of the two tests may miss half of what both may.
    halved = (1 + ENOUGH) / 2 if not observed.is_greater else ENOUGH
    target = np.where(distance < 0, ndtri(halved), ndtri(ENOUGH))
    quantiles = ndtri(1 - level) + target
    rest = (distance / quantiles) ** 2 - observed.image_error**2
    with np.errstate(divide="ignore"):
        needed = np.where(rest > 0, variance / np.maximum(rest, 0), np.inf)
    needed = np.ceil(needed + ndtri(1 - level) ** 2 / 2)
    outside = (1 - share) / 2
    low, high = np.quantile(needed, [outside, 1 - outside], method="inverted_cdf")
    return float(low), float(high)
