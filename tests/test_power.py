"""Power and the seeds that a claim needs, against closed forms and the rule of the verdicts; what
`harness plan` assumes and prints."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import made_up, planned
from helpers import Output, Patch, refusal, write_experiment
from scipy import stats

from harness.analysis.planned_power import ASSUMED, OVER_IMAGES, Assumptions, power_blocks
from harness.analysis.power import (
    AssumedEffect,
    fewest_seeds,
    power,
    seeds_to_decide,
)
from harness.analysis.statistics import holm
from harness.analysis.tables.result_table import ResultTable
from harness.cli import main

NOISE = 0.03  # of a share of 2,000 repetitions: almost 3 standard errors


def power_of_t_test(difference: float, spread: float, n: int) -> float:
    """The closed form of a one-sided test at 2.5 %: Cohen, Statistical Power Analysis, 1988."""
    bound = stats.t.ppf(0.975, n - 1)
    return float(stats.nct.sf(bound, n - 1, difference / spread * math.sqrt(n)))


@pytest.mark.parametrize("n", [3, 7, 20])
@pytest.mark.parametrize("difference", [0.0, 0.004, 0.01])
def test_one_comparison_has_the_power_of_a_t_test(difference: float, n: int) -> None:
    (found,) = power([AssumedEffect(difference, 0.006)], n)
    assert found == pytest.approx(power_of_t_test(difference, 0.006, n), abs=NOISE)


def test_a_margin_is_a_shift_and_a_false_claim_is_to_be_contradicted() -> None:
    by_one = AssumedEffect(0.02, 0.006, margin=0.01)
    assert power([by_one], 7) == power([AssumedEffect(0.01, 0.006)], 7)
    assert power([AssumedEffect(-0.01, 0.006)], 7) == pytest.approx(
        power([AssumedEffect(0.01, 0.006)], 7), abs=NOISE
    )


def test_an_equivalence_has_the_power_of_two_t_tests() -> None:
    """Schuirmann's, by a simulation of the values themselves."""
    n, spread, margin, true = 8, 0.006, 0.008, 0.001
    values = np.random.default_rng(1).normal(true, spread, (20_000, n))
    t = stats.t.ppf(0.975, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    inside = (np.abs(values.mean(1)) + t < margin).mean()
    (found,) = power([AssumedEffect(true, spread, margin=margin, is_greater=False)], n)
    assert found == pytest.approx(inside, abs=NOISE)


def test_more_comparisons_cost_power_and_images_limit_it() -> None:
    one = AssumedEffect(0.008, 0.006)
    (alone,) = power([one], 7)
    among = power([one, *[AssumedEffect(0, 0.006)] * 31], 7)[0]
    assert alone > 0.75 and among < alone - 0.3
    limited = AssumedEffect(0.008, 0.006, image_error=0.008)
    assert power([limited], 500)[0] == pytest.approx(stats.norm.sf(1.96 - 1), abs=NOISE)


def test_without_an_effect_five_in_a_hundred_experiments_decide_any() -> None:
    comparisons = [AssumedEffect(0, 0.006)] * 10
    supported = sum(power(comparisons, 5, repetitions=20_000))
    assert 0.02 < supported < 0.03, "half of 5 %: the other half is contradicted"


def test_corrected_as_verdicts_are() -> None:
    ps = np.random.default_rng(2).uniform(0, 0.2, (50, 6))
    ps[0] = ps[0, 0]
    assert holm(ps) == pytest.approx(np.array([holm(row) for row in ps]))


def test_fewest_seeds_are_those_of_a_t_test() -> None:
    expected = next(n for n in range(2, 99) if power_of_t_test(0.01, 0.012, n) >= 0.8)
    found = fewest_seeds([AssumedEffect(0.01, 0.012)])
    assert found and abs(found - expected) <= 1
    assert fewest_seeds([AssumedEffect(0.01, 0.012, image_error=0.01)]) is None
    assert fewest_seeds([]) is None


def test_the_seeds_needed_are_a_range_that_covers_the_truth() -> None:
    """From seven seeds, the range covers the 18 that are needed in about 80 % of repetitions."""
    difference, spread, n, level = 0.01, 0.0142, 7, 0.025
    powers = [power_of_t_test(difference, spread, seeds) for seeds in (17, 18)]
    assert powers[0] < 0.8 <= powers[1]
    covered = []
    for values in np.random.default_rng(3).normal(difference, spread, (300, n)):
        seen = AssumedEffect(values.mean(), values.std(ddof=1))
        low, high = seeds_to_decide(seen, n, level)
        covered.append(low <= 18 <= high)
    assert 0.72 < np.mean(covered) < 0.9


def test_no_number_of_seeds_decides_what_the_images_hide() -> None:
    seen = AssumedEffect(0.002, 0.006, image_error=0.01)
    assert seeds_to_decide(seen, 7, 0.025)[1] == math.inf
    inside = AssumedEffect(0.0, 0.004, margin=0.01, is_greater=False)
    low, high = seeds_to_decide(inside, 7, 0.025)
    assert 2 <= low < high < 20


# -- harness plan ----------------------------------------------------------------------------------

CLAIMING: dict[str, Any] = {
    "methods": ["plain", "kd", "refilled"],
    "tasks": None,
    "claims": ["refilled > plain", "refilled within 1 of kd"],
    "secondary_claims": ["teacher > plain"],
    "seeds": [0, 1, 2],
}
SMALL, LARGE = "wrn-10-1", "wrn-10-2"


def rows_of(**assumptions: Any) -> dict[str, list[str]]:
    published = assumptions.pop("published", [])
    changes = assumptions.pop("changes", {})
    blocks = power_blocks(planned(**CLAIMING | changes), published, Assumptions(**assumptions))
    tables = [block for block in blocks if isinstance(block, ResultTable)]
    return {row[0].text: [c.text for c in row[1:]] for table in tables for row in table.rows}


def test_defaults_are_assumed_where_nothing_is_known() -> None:
    rows = rows_of()
    error = f"{100 * OVER_IMAGES / math.sqrt(500):.2f}"
    for claim, difference in (
        ("refilled > plain", "+1.0"),
        ("refilled within 1 of kd", "+0.0"),
        ("teacher > plain", "+1.0"),
    ):
        found = rows[claim]
        assert found[:4] == ["2", difference, "0.50", error] and found[5:] == [ASSUMED, ASSUMED]


def test_what_is_known_comes_first() -> None:
    """Options, then published numbers of one source, then committed results."""
    base = [0.90, 0.91, 0.92]
    numbers = {("plain", "student", s): base for s in (SMALL, LARGE)}
    for student, shifts in ((SMALL, (0.01, 0.02, 0.03)), (LARGE, (0.03, 0.04, 0.05))):
        sums = [b + shift for b, shift in zip(base, shifts, strict=True)]
        numbers["refilled", "stage2", student] = sums
    reference = made_up(numbers, **{k: CLAIMING[k] for k in ("methods", "claims")})
    rows = rows_of(reference=reference)
    assert rows["refilled > plain"][1:3] == ["+2.0 to +4.0", "1.00"]
    assert rows["refilled > plain"][5:] == ["made-up.jsonl"] * 2
    assert rows["refilled within 1 of kd"][5:] == [ASSUMED, ASSUMED]
    published = [
        {"source": "a paper", "of": of, SMALL: small, LARGE: "", "protocol": "x", "row": "x"}
        for of, small in (("refilled", "75.00 ± 0.3"), ("plain", "71.50"))
    ]
    rows = rows_of(reference=reference, published=published)
    assert rows["refilled > plain"][1] == "+3.5 to +4.0"
    assert rows["refilled > plain"][5] == "a paper, made-up.jsonl"
    rows = rows_of(reference=reference, published=published, effect=0.02, spread=0.003)
    assert rows["refilled > plain"][1:3] == ["+2.0", "0.30"]
    assert rows["refilled > plain"][5:] == ["--effect", "--spread"]


def test_too_little_power_is_said_with_the_seeds_that_would_do() -> None:
    blocks = power_blocks(planned(**CLAIMING), [], Assumptions())
    (warning,) = (b for b in blocks if isinstance(b, str) and b.startswith("warning: "))
    assert re.search(r"refilled > plain, refilled within 1 of kd; .* need 1\d seeds\.", warning)
    large = planned(**CLAIMING | {"claims": ["refilled > plain"], "secondary_claims": []})
    blocks = power_blocks(large, [], Assumptions(effect=0.04))
    assert not any(isinstance(b, str) and "warning" in b for b in blocks)
    few = power_blocks(large, [], Assumptions(effect=0.03, spread=0.01))
    assert re.search(r"of refilled > plain; .* need [4-9] seeds\.", str(few[-1]))
    assert power_blocks(planned(), [], Assumptions()) == [], "nothing is claimed"


def test_the_same_training_on_both_sides_is_not_tested() -> None:
    """The teacher and a plain student of its network."""
    students = [{"depth": 16, "width": 2}, {"depth": 10, "width": 1}]
    assert rows_of(changes={"students": students})["teacher > plain"][0] == "1"
    blocks = power_blocks(planned(**CLAIMING | {"claims": ["dkd > plain"]}), [], Assumptions())
    assert blocks[0] == "warning: 'dkd > plain' will not be tested: dkd is no method here"


def test_plan_prints_it(tmp_path: Path, monkeypatch: Patch, capsys: Output) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_experiment(tmp_path / "tiny.yaml", claims=["kd > plain"], seeds=[0, 1])
    plan = ["plan", str(file), "--no-estimate"]
    assert main([*plan, "--effect", "5", "--spread", "0.4"]) == 0
    out = capsys.readouterr().out
    assert "Power of the primary claims with 2 seeds" in out and "--effect" in out
    assert "above 0" in refusal(capsys, *plan, "--spread", "0")
