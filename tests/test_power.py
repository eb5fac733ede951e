"""Power and the seeds that a claim needs, against closed forms and the rule of the verdicts."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.analysis.power import (
    Comparison,
    fewest_seeds,
    holm_of_rows,
    power,
    seeds_to_decide,
)
from harness.analysis.statistics import holm, seeds_above

NOISE = 0.03  # of a share of 2,000 repetitions: almost 3 standard errors


@pytest.mark.parametrize("n", [3, 7, 20])
@pytest.mark.parametrize("difference", [0.0, 0.004, 0.01])
def test_one_comparison_has_the_power_of_a_t_test(difference: float, n: int) -> None:
    noncentrality = difference / 0.006 * math.sqrt(n)
    expected = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, noncentrality)
    (found,) = power([Comparison(difference, 0.006)], n)
    assert found == pytest.approx(expected, abs=NOISE)


def test_a_margin_is_a_shift_and_a_false_claim_is_to_be_contradicted() -> None:
    by_one = Comparison(0.02, 0.006, margin=0.01)
    assert power([by_one], 7) == power([Comparison(0.01, 0.006)], 7)
    assert power([Comparison(-0.01, 0.006)], 7) == pytest.approx(
        power([Comparison(0.01, 0.006)], 7), abs=NOISE
    )


def test_an_equivalence_has_the_power_of_two_t_tests() -> None:
    """Schuirmann's, by a simulation of the values themselves."""
    n, spread, margin, true = 8, 0.006, 0.008, 0.001
    values = np.random.default_rng(1).normal(true, spread, (20_000, n))
    t = stats.t.ppf(0.975, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    inside = (np.abs(values.mean(1)) + t < margin).mean()
    (found,) = power([Comparison(true, spread, margin=margin, is_greater=False)], n)
    assert found == pytest.approx(inside, abs=NOISE)


def test_more_comparisons_cost_power_and_images_limit_it() -> None:
    one = Comparison(0.008, 0.006)
    (alone,) = power([one], 7)
    among = power([one, *[Comparison(0, 0.006)] * 31], 7)[0]
    assert alone > 0.75 and among < alone - 0.3
    limited = Comparison(0.008, 0.006, image_error=0.008)
    assert power([limited], 500)[0] == pytest.approx(stats.norm.sf(1.96 - 1), abs=NOISE)


def test_without_an_effect_five_in_a_hundred_experiments_decide_any() -> None:
    comparisons = [Comparison(0, 0.006)] * 10
    supported = sum(power(comparisons, 5, repetitions=20_000))
    assert 0.02 < supported < 0.03, "half of 5 %: the other half is contradicted"


def test_corrected_as_verdicts_are() -> None:
    ps = np.random.default_rng(2).uniform(0, 0.2, (50, 6))
    ps[0] = ps[0, 0]
    assert holm_of_rows(ps) == pytest.approx(np.array([holm(row) for row in ps]))


def test_fewest_seeds_are_those_of_a_t_test() -> None:
    expected = seeds_above(0.01, 0.012, 0.025)
    found = fewest_seeds([Comparison(0.01, 0.012)])
    assert expected and found and abs(found - expected) <= 1
    assert fewest_seeds([Comparison(0.01, 0.012, image_error=0.01)]) is None
    assert fewest_seeds([]) is None


def test_the_seeds_needed_are_a_range_that_covers_the_truth() -> None:
    """18 seeds are needed; seven say so within a wide range, in about 80 % of repetitions."""
    difference, spread, n, level = 0.01, 0.0142, 7, 0.025
    assert seeds_above(difference, spread, level) == 18
    covered = []
    for values in np.random.default_rng(3).normal(difference, spread, (300, n)):
        seen = Comparison(values.mean(), values.std(ddof=1))
        low, high = seeds_to_decide(seen, n, level)
        covered.append(low <= 18 <= high)
    assert 0.72 < np.mean(covered) < 0.9


def test_no_number_of_seeds_decides_what_the_images_hide() -> None:
    seen = Comparison(0.002, 0.006, image_error=0.01)
    assert seeds_to_decide(seen, 7, 0.025)[1] == math.inf
    inside = Comparison(0.0, 0.004, margin=0.01, is_greater=False)
    low, high = seeds_to_decide(inside, 7, 0.025)
    assert 2 <= low < high < 20
