"""Mean and spread over seeds; tests of differences between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# scipy.stats would take half a second to import.
from scipy.special import stdtr, stdtrit

LEVEL = 0.05  # of all comparisons that are corrected together
FEWEST_SEEDS = 5  # fewer seeds say too little about the spread
FEWEST_SHOWN = 3  # of two seeds, the half-width is 6.4 times their distance, which says nothing


@dataclass(frozen=True)
class Estimate:
    """The mean of n values with half the width of its t-interval, None for n = 1."""

    mean: float
    half_width: float | None
    n: int

    @property
    def shown_half_width(self) -> float | None:
        """The half-width to show: None if there are too few seeds for one that says something."""
        return self.half_width if self.n >= FEWEST_SHOWN else None


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate | None:
    """Return the mean and Student's t-interval, t(n - 1) s / sqrt(n); None without values."""
    return sample_mean(values).interval(confidence) if len(values) else None


ROUNDING = 1e-9  # far below one image of any test set


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of n >= 2 values, with n - 1.

    It is 0 for values that differ by rounding alone, as differences of fractions of a test set do.
    """
    if max(values) - min(values) < ROUNDING:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def t_quantile(df: float, confidence: float) -> float:
    """Return half the width of a `confidence` interval, in standard errors."""
    return float(stdtrit(df, 0.5 + confidence / 2))


@dataclass(frozen=True)
class SampleMean:
    """A mean with its standard error, from which tests and intervals follow.

    Attributes:
        error: The standard error; None for a single value, 0 for values without a spread.
        df: The degrees of freedom of `error`.
        n: The number of values, which are seeds.
        over_seeds: The mean over seeds alone; tests and intervals are never more certain than its
            own. None if this is that mean.
    """

    mean: float
    error: float | None
    df: float
    n: int
    over_seeds: SampleMean | None = None

    @property
    def has_spread(self) -> bool:
        """Whether there is a spread over seeds, without which a t-test says nothing."""
        return bool((self.over_seeds or self).error)

    def p_above(self, bound: float) -> float:
        """Return p of the one-sided t-test that the mean is above `bound`.

        A small p says that it is; values without a spread say nothing (0.5).
        """
        if not self.error:
            return 0.5
        p = float(stdtr(self.df, (bound - self.mean) / self.error))
        return max(p, self.over_seeds.p_above(bound)) if self.over_seeds else p

    def p_below(self, bound: float) -> float:
        """Return p of the one-sided t-test that the mean is below `bound`."""
        if not self.error:
            return 0.5
        p = float(stdtr(self.df, (self.mean - bound) / self.error))
        return max(p, self.over_seeds.p_below(bound)) if self.over_seeds else p

    def p_within(self, margin: float) -> float:
        """Return p of the test that the mean is within (-margin, margin).

        Two one-sided t-tests: Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987.
        """
        return max(self.p_above(-margin), self.p_below(margin))

    @property
    def p_differs(self) -> float:
        """The p-value of the two-sided t-test that the mean is not 0."""
        return 2 * min(self.p_above(0), self.p_below(0))

    def interval(self, confidence: float = 0.95) -> Estimate:
        """Return the mean with its t-interval."""
        if self.error is None:
            return Estimate(self.mean, None, self.n)
        half_width = t_quantile(self.df, confidence) * self.error if self.error else 0.0
        if self.over_seeds:
            half_width = max(half_width, self.over_seeds.interval(confidence).half_width or 0.0)
        return Estimate(self.mean, half_width, self.n)


def sample_mean(values: Sequence[float]) -> SampleMean:
    """Return the mean of one value or more, with the standard error s / sqrt(n)."""
    n = len(values)
    mean = math.fsum(values) / n
    return SampleMean(mean, deviation(values) / math.sqrt(n) if n > 1 else None, n - 1, n)


def crossed_mean(values: np.ndarray) -> SampleMean:
    """Return the mean over seeds and test images, both of which are random effects.

    The variance of the mean is (MS_seeds + MS_images - MS_residual) / (S N), without the image term
    where that is negative; MS_seeds / (S N) alone is the variance of the t-test over seeds. Degrees
    of freedom: Satterthwaite, Biometrics Bull. 2, 1946. The test is Clark's quasi-F (J. Verbal
    Learn. Verbal Behav. 12, 1973). With few seeds the approximation may claim more certainty than
    the t-test over seeds, most of all at the small levels of many comparisons; therefore the larger
    p-value of both counts (benchmarks/verdict_rule.py).

    Args:
        values: (S, N): the value of each seed for each image.
    """
    n_seeds, n_images = values.shape
    by_seed, by_image, mean = values.mean(1), values.mean(0), values.mean()
    over_seeds = sample_mean(by_seed.tolist())
    if n_seeds < 2 or n_images < 2:
        return over_seeds
    df_seeds, df_images = n_seeds - 1, n_images - 1
    residuals = values - by_seed[:, None] - by_image[None, :] + mean
    squares = (
        n_images * float(((by_seed - mean) ** 2).sum()) / df_seeds,
        n_seeds * float(((by_image - mean) ** 2).sum()) / df_images,
        -float((residuals**2).sum()) / (df_seeds * df_images),
    )
    if squares[1] + squares[2] <= 0 or sum(squares) <= 0:
        return over_seeds
    dfs = (df_seeds, df_images, df_seeds * df_images)
    df = sum(squares) ** 2 / sum(ms**2 / df for ms, df in zip(squares, dfs, strict=True))
    error = math.sqrt(sum(squares) / (n_seeds * n_images))
    return SampleMean(over_seeds.mean, error, df, n_seeds, over_seeds)


def difference_of_means(left: Sequence[float], right: Sequence[float]) -> SampleMean:
    """Return the difference of two independent means, each with a variance of its own.

    Welch, Biometrika 34, 1947. A side with a single value is taken to have the other's variance;
    the error is unknown if both have one.
    """
    sides = [sample_mean(left), sample_mean(right)]
    mean, n = sides[0].mean - sides[1].mean, min(side.n for side in sides)
    if n == 1:
        known = max(sides, key=lambda side: side.n)
        error = None if known.error is None else known.error * math.sqrt(known.n + 1)
        return SampleMean(mean, error, known.df, n)
    variances = [(side.error or 0.0) ** 2 for side in sides]
    total = sum(variances)
    df = sum(v**2 / side.df for v, side in zip(variances, sides, strict=True))
    return SampleMean(mean, math.sqrt(total), total**2 / df if total else n - 1, n)


def holm(ps: np.ndarray | Sequence[float]) -> np.ndarray:
    """Return adjusted p-values, in the same order.

    If all below a level are decided, the chance of any wrong decision is at most that level (Holm,
    Scand. J. Stat. 6, 1979).

    Args:
        ps: (.., C): the p-values of C comparisons; each row is adjusted by itself.
    """
    raw = np.asarray(ps, dtype=float)
    order = np.argsort(raw, axis=-1)
    factors = np.arange(raw.shape[-1], 0, -1)
    ranked = np.minimum(1, np.take_along_axis(raw, order, axis=-1) * factors)
    adjusted = np.empty_like(raw)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(ranked, axis=-1), axis=-1)
    return adjusted


def sampling_error(accuracy: float, n_images: int) -> float:
    """Return half the width of the 95 % interval that n test images leave to an accuracy.

    Normal approximation of the binomial: 1.96 sqrt(p (1 - p) / n).
    """
    return 1.96 * math.sqrt(accuracy * (1 - accuracy) / n_images)
