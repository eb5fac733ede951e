"""Verdicts on claims: the statistics beside scipy.stats, and what is made of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from bundles import made_up
from mlflow.utils.validation import _validate_tag_name

from harness.analysis.bundle_fields import CorrectPart
from harness.analysis.confirmations import confirmations
from harness.analysis.mlflow_summary import tags_of
from harness.analysis.power import AssumedEffect, seeds_to_decide
from harness.analysis.statistics import (
    crossed_mean,
    deviation,
    difference_of_means,
    holm,
    sample_mean,
    sampling_error,
)
from harness.analysis.tables.comparisons import (
    claims_blocks,
    confirmation_blocks,
    count_outcomes,
    count_standings,
    difference_blocks,
    published_blocks,
    verdict_blocks,
)
from harness.analysis.tables.result_table import Block, ResultTable
from harness.analysis.verdicts import (
    Verdict,
    beside_published,
    differences_of,
    p_text,
    paired,
    verdicts_of,
)

VALUES = [0.012, 0.031, -0.004, 0.022, 0.017]
BASE = [0.90, 0.91, 0.92, 0.93, 0.94]
SMALL, LARGE = "wrn-10-1", "wrn-10-2"


def plus(values: list[float], base: list[float] = BASE) -> list[float]:
    return [a + b for a, b in zip(base, values, strict=True)]


# -- statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [-0.01, 0.0, 0.015, 0.05])
def test_one_sided_p(bound: float) -> None:
    expected = scipy.stats.ttest_1samp(VALUES, bound, alternative="greater").pvalue
    assert sample_mean(VALUES).p_above(bound) == pytest.approx(expected, rel=1e-9)
    expected = scipy.stats.ttest_1samp(VALUES, bound, alternative="less").pvalue
    assert sample_mean(VALUES).p_below(bound) == pytest.approx(expected, rel=1e-9)


def test_equivalence_takes_the_worse_of_two_one_sided_tests() -> None:
    low = scipy.stats.ttest_1samp(VALUES, -0.03, alternative="greater").pvalue
    high = scipy.stats.ttest_1samp(VALUES, 0.03, alternative="less").pvalue
    assert sample_mean(VALUES).p_within(0.03) == pytest.approx(max(low, high), rel=1e-9)
    assert sample_mean([-v for v in VALUES]).p_within(0.03) == pytest.approx(
        max(low, high), rel=1e-9
    )


def test_values_without_spread_decide_nothing() -> None:
    assert sample_mean([0.1, 0.1, 0.1]).p_above(0.0) == 0.5
    assert sample_mean([0.1]).p_below(0.0) == 0.5
    of_images = np.zeros((2, 10))
    of_images[:, :3] = 1  # the same for both seeds
    assert crossed_mean(of_images).error and not crossed_mean(of_images).has_spread


def test_holm() -> None:
    """The worked steps: 4 x 0.01, 3 x 0.02, then never less than the one before, at most 1."""
    assert holm([0.04, 0.01, 0.02, 0.9]) == pytest.approx([0.08, 0.04, 0.06, 0.9])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0] and holm([]).tolist() == []


def test_two_independent_means() -> None:
    other = [0.1, 0.4, 0.2]
    expected = scipy.stats.ttest_ind(VALUES, other, equal_var=False)
    found = difference_of_means(VALUES, other)
    assert found.p_differs == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.df == pytest.approx(expected.df)
    one = difference_of_means([0.1], VALUES)
    expected = scipy.stats.sem(VALUES) * math.sqrt(5 * (1 + 1 / 5))
    assert (one.df, one.error) == (4, pytest.approx(expected))
    assert difference_of_means([0.2], [0.1]).error is None


def crossed(
    rng: np.random.Generator, seed_spread: float, image_spread: float, shape: tuple[int, int]
) -> np.ndarray:
    """Return values (S, N) with mean 0 and random effects of seeds and images."""
    seeds = rng.normal(0, seed_spread, (shape[0], 1)) if seed_spread else 0
    images = rng.normal(0, image_spread, (1, shape[1])) if image_spread else 0
    return seeds + images + rng.normal(0, 1, shape)


def test_seeds_and_images_are_both_random_effects() -> None:
    """The mean squares of a two-way layout, by hand: 3 seeds, 4 images."""
    values = crossed(np.random.default_rng(3), 0.1, 4.0, (3, 4))
    row, column, mean = values.mean(1), values.mean(0), values.mean()
    ms_seeds = 4 * row.var(ddof=1)
    ms_images = 3 * column.var(ddof=1)
    rest = values - row[:, None] - column + mean
    ms_rest = (rest**2).sum() / 6
    variance = (ms_seeds + ms_images - ms_rest) / 12
    df = (ms_seeds + ms_images - ms_rest) ** 2 / (
        ms_seeds**2 / 2 + ms_images**2 / 3 + ms_rest**2 / 6
    )
    found = crossed_mean(values)
    assert (found.mean, found.n) == (pytest.approx(mean), 3)
    assert found.error == pytest.approx(math.sqrt(variance)) and found.df == pytest.approx(df)


def test_without_an_image_effect_it_is_the_t_test_over_seeds() -> None:
    same = np.tile(np.array(VALUES)[:, None], (1, 8))
    assert crossed_mean(same) == sample_mean(VALUES)
    assert crossed_mean(same[:1]).error is None


def test_images_never_add_certainty() -> None:
    """At no level, although Satterthwaite's many degrees of freedom give smaller tails."""
    values = crossed(np.random.default_rng(1), 0.3, 1.5, (3, 40)) + 3
    found, over_seeds = crossed_mean(values), sample_mean(values.mean(1).tolist())
    assert found.interval(0.8).half_width > over_seeds.interval(0.8).half_width
    assert found.interval(0.999) == over_seeds.interval(0.999)
    for bound in np.linspace(-9, 15, 40):
        assert found.p_above(bound) >= over_seeds.p_above(bound)
        assert found.p_below(bound) >= over_seeds.p_below(bound)


@pytest.mark.parametrize("image_spread", [0.0, 0.5, 2.0])
def test_the_interval_covers_new_seeds_and_new_images(image_spread: float) -> None:
    """In 1,000 simulated repetitions, of which the t-test over seeds alone covers far fewer."""
    rng = np.random.default_rng(0)
    draws = [crossed(rng, 0.1, image_spread, (6, 50)) for _ in range(1000)]

    def share(means: list[Any]) -> float:
        return float(np.mean([abs(m.mean) <= m.interval().half_width for m in means]))

    assert 0.935 < share([crossed_mean(d) for d in draws]) < 0.985
    over_seeds = share([sample_mean(d.mean(1).tolist()) for d in draws])
    assert over_seeds < 0.7 if image_spread == 2.0 else over_seeds < 0.97


def test_sampling_error() -> None:
    assert sampling_error(0.985, 1000) == pytest.approx(0.0075, abs=5e-5)


def texts_of(blocks: list[Block]) -> list[list[str]]:
    """The cells of a table that has a sentence above it."""
    _, table = blocks
    assert isinstance(table, ResultTable)
    return [[cell.text + cell.note for cell in row] for row in table.rows]


# -- verdicts --------------------------------------------------------------------------------------


def verdicts(claims: list[str], kd: dict[str, list[float]], **more: Any) -> list[Verdict]:
    numbers = {("plain", "student", student): BASE for student in kd}
    numbers |= {("kd", "kd", student): values for student, values in kd.items()}
    return verdicts_of(made_up(numbers | more, methods=["plain", "kd"], claims=claims))


NOISE = [0.001, -0.002, 0.003, 0.0, -0.001]


def test_three_outcomes() -> None:
    """Paired: the seeds' own spread of 1.6 points would hide a difference of one."""
    for shift, outcome in ((0.01, "supported"), (-0.01, "contradicted"), (0.0005, "undecided")):
        (found,) = verdicts(["kd > plain"], {SMALL: plus([shift + n for n in NOISE])})
        assert found.outcome == outcome and found.claim == "kd > plain" and found.column == SMALL
        assert found.difference.mean == pytest.approx(shift + 0.0002) and found.difference.n == 5
        expected = scipy.stats.ttest_1samp([shift + n for n in NOISE], 0).pvalue
        assert found.p == pytest.approx(expected, rel=1e-6)


def test_a_margin_must_be_exceeded() -> None:
    kd = {SMALL: plus([0.01 + n for n in NOISE])}
    outcomes = {m: verdicts([f"kd > plain by {m}"], kd)[0].outcome for m in ("0.5", "1", "2")}
    assert outcomes == {"0.5": "supported", "1": "undecided", "2": "contradicted"}


def test_within() -> None:
    kd = {SMALL: plus([0.01 + n for n in NOISE])}
    outcomes = {m: verdicts([f"kd within {m} of plain"], kd)[0].outcome for m in ("0.5", "1", "2")}
    assert outcomes == {"0.5": "contradicted", "1": "undecided", "2": "supported"}
    below = {SMALL: plus([-0.01 + n for n in NOISE])}
    assert verdicts(["kd within 0.5 of plain"], below)[0].outcome == "contradicted"


def test_many_comparisons_are_corrected() -> None:
    """A column that is decided alone is not decided beside one that adds only noise."""
    shifts = [0.0025 + n for n in NOISE]
    alone = scipy.stats.ttest_1samp(shifts, 0).pvalue
    assert 0.025 < alone < 0.05
    (found,) = verdicts(["kd > plain"], {SMALL: plus(shifts)})
    assert found.outcome == "supported"
    first, second = verdicts(["kd > plain"], {SMALL: plus(shifts), LARGE: plus(NOISE)})
    assert (first.column, second.column) == (SMALL, LARGE)
    assert first.outcome == "undecided" and first.p == pytest.approx(2 * alone)


def test_an_undecided_claim_says_how_many_seeds() -> None:
    """A range, as the spread is an estimate; four seeds say too little of it."""
    shifts = [0.002 + n for n in NOISE]
    (found,) = verdicts(["kd > plain"], {SMALL: plus(shifts)})
    seen = AssumedEffect(0.0022, deviation(shifts))
    low, high = seeds_to_decide(seen, 5, 0.025)
    assert found.why == f"{low:.0f} to {high:.0f} seeds would probably decide it" and low < high
    (never,) = verdicts(["kd > plain"], {SMALL: plus([1e-6 + n - 0.0002 for n in NOISE])})
    assert "to more than 1,000 seeds" in never.why
    (few,) = verdicts(["kd > plain"], {SMALL: plus(shifts[:4], BASE[:4])})
    assert few.outcome == "undecided" and few.why == ""


def test_p_values() -> None:
    assert [p_text(p) for p in (0.0009, 0.001, 0.04)] == ["< 0.001", "0.001", "0.040"]


def test_two_seeds_have_a_spread() -> None:
    (found,) = verdicts(["kd > plain"], {SMALL: plus([0.01, 0.0101], BASE[:2])})
    assert found.outcome == "supported" and found.p is not None


def test_the_teacher_stands_beside_each_student() -> None:
    numbers = {("plain", "student", s): BASE for s in (SMALL, LARGE)}
    numbers |= {("teacher", "teacher", ""): plus([0.01 + n for n in NOISE])}
    claims = ["teacher > plain", "plain > teacher"]
    bundle = made_up(numbers, methods=["plain", "kd"], claims=claims)
    outcomes = [(v.column, v.outcome) for v in verdicts_of(bundle)]
    assert outcomes == [(s, o) for o in ("supported", "contradicted") for s in (SMALL, LARGE)]


@pytest.mark.parametrize(("kd", "why"), [(BASE[:1], "one seed"), (plus([0.01] * 5), "no spread")])
def test_without_a_spread_nothing_is_decided(kd: list[float], why: str) -> None:
    (found,) = verdicts(["kd > plain"], {SMALL: kd})
    assert found.outcome == "undecided" and found.p is None and why in found.why


def test_numbers_are_paired_by_seed_not_by_position() -> None:
    """One side lacks the first seeds: of those that both have, kd is one point better."""
    values = plus([0.01] * 5, [0.9, 0.5, 0.7, 0.6, 0.8])
    bundle = made_up(
        {("plain", "student", SMALL): [0.9, 0.5, 0.7, 0.6, 0.8], ("kd", "kd", SMALL): values},
        methods=["plain", "kd"],
        claims=["kd > plain"],
    )
    bundle.numbers[:] = [n for n in bundle.numbers if n.method == "plain" or n.seed >= 2]
    (found,) = verdicts_of(bundle)
    assert (
        found.difference
        and found.difference.n == 3
        and found.difference.mean == pytest.approx(0.01)
    )
    assert paired({3: 0.5, 4: 0.9}, {1: 0.1, 3: 0.4}) == pytest.approx([0.1])


def test_a_cell_is_not_compared_with_itself() -> None:
    """The teacher and the plain student of its network are one cell."""
    bundle = made_up(
        {("plain", "student", SMALL): BASE, ("teacher", "teacher", ""): plus(NOISE)},
        methods=["plain", "kd"],
        claims=["teacher > plain"],
    )
    assert len(verdicts_of(bundle)) == 1
    for number in bundle.numbers:
        number.cell.fingerprint = "the same"
    assert [v.outcome for v in verdicts_of(bundle)] == ["not tested"]


def test_claims_of_what_is_left_out_are_not_tested() -> None:
    """Each verdict gives the reason, and Holm's correction does not count the claim."""
    claims = ["kd > plain", "plain > kd", "plain within 2 of kd"]
    bundle = made_up({("plain", "student", SMALL): BASE}, methods=["plain"], claims=claims)
    found = verdicts_of(bundle)
    assert [(v.claim, v.outcome, v.difference) for v in found] == [
        (claim, "not tested", None) for claim in claims
    ]
    assert all("kd is no method here" in v.why for v in found)
    assert count_outcomes(found).endswith("3 not tested")
    assert tags_of(found)["verdict kd above plain"] == "not tested"


def test_secondary_claims_are_corrected_among_themselves() -> None:
    shifts = {SMALL: plus([0.0025 + n for n in NOISE])}
    numbers = {("plain", "student", SMALL): BASE, ("kd", "kd", SMALL): shifts[SMALL]}
    claims = {"claims": ["kd > plain"], "secondary_claims": ["kd > plain by 0.01", "plain > kd"]}
    found = verdicts_of(made_up(numbers, methods=["plain", "kd"], **claims))
    assert [v.is_primary for v in found] == [True, False, False]
    alone = scipy.stats.ttest_1samp([0.0025 + n for n in NOISE], 0).pvalue
    assert found[0].p == pytest.approx(alone) and found[2].p == pytest.approx(2 * alone)


def right(n: int, wrong: range) -> np.ndarray:
    """Return which of N images are classified correctly: all but those in `wrong`."""
    correct = np.ones(n, dtype=bool)
    correct[list(wrong)] = False
    return correct


def with_images(images: tuple[str, str] = ("a", "a")) -> Any:
    """Return a bundle in which KD classifies 20 more of 1,000 images correctly for every seed.

    These images are the same for all seeds; a few others vary.

    Args:
        images: The digests of the test images of the plain student and of KD.
    """
    correct = {
        "plain": [right(1000, range(100 - seed, 200)) for seed in range(5)],
        "kd": [right(1000, range(120 - seed % 2, 200)) for seed in range(5)],
    }
    numbers = {
        (method, stage, SMALL): [float(c.mean()) for c in correct[method]]
        for method, stage in (("plain", "student"), ("kd", "kd"))
    }
    bundle = made_up(numbers, methods=["plain", "kd"], claims=["kd > plain"])
    for number in bundle.numbers:
        digest = images[number.method == "kd"]
        packed = CorrectPart.pack(digest, correct[number.method][number.seed])
        number.cell.correct = CorrectPart(**packed)
    return bundle


def test_the_choice_of_test_images_widens_the_interval() -> None:
    """Every seed gains the same 20 images, so a test over seeds alone would be overconfident."""
    (found,) = verdicts_of(with_images())
    (seeds_alone,) = verdicts_of(with_images(("a", "b")))
    assert found.difference and seeds_alone.difference and seeds_alone.difference.half_width
    assert found.difference.mean == pytest.approx(seeds_alone.difference.mean)
    assert found.difference.half_width > 4 * seeds_alone.difference.half_width
    binomial = 1.96 * math.sqrt(0.02 / 1000)
    assert found.difference.half_width == pytest.approx(binomial, rel=0.25)


def test_verdicts_of_two_sets_of_seeds() -> None:
    def bundle(*shifts: float) -> Any:
        numbers = {("plain", "student", s): BASE for s in (SMALL, LARGE)}
        for student, shift in zip((SMALL, LARGE), shifts, strict=True):
            numbers["kd", "kd", student] = plus([shift + n for n in NOISE])
        return made_up(numbers, methods=["plain", "kd"], claims=["kd > plain"])

    def standings(first: Any, second: Any) -> list[str]:
        return [pair.standing for pair in confirmations(first, second, first)]

    up, down, open_ = bundle(0.02, 0.02), bundle(0.02, -0.02), bundle(0.02, 0.0)
    assert standings(up, up) == ["confirmed", "confirmed"]
    assert standings(up, down) == ["confirmed", "reversed"]
    assert standings(up, open_) == ["confirmed", "not confirmed"]
    assert standings(open_, up) == ["confirmed", "open"]
    assert count_standings(confirmations(up, down, up)) == (
        "1 confirmed, 0 not confirmed, 1 reversed, 0 open"
    )
    only_small = made_up(
        {("plain", "student", SMALL): BASE, ("kd", "kd", SMALL): plus([0.02] * 5)},
        methods=["plain", "kd"],
    )
    assert standings(up, only_small) == ["not confirmed", "not confirmed"]
    without_kd = made_up({("plain", "student", SMALL): BASE}, methods=["plain"])
    pairs = confirmations(without_kd, up, up)
    assert count_standings(pairs).endswith("0 open, 2 not tested")
    assert [(p.column, p.second and p.second.outcome) for p in pairs] == [
        (student, "supported") for student in (SMALL, LARGE)
    ]
    _, listed = claims_blocks(up, open_)
    assert isinstance(listed, ResultTable) and len(listed.rows) == 1
    assert len(claims_blocks(open_, bundle(0.0, 0.0))) == 1, "no claim is confirmed: no table"


def test_after_stage_1_the_metric_of_the_protocol_counts() -> None:
    numbers = {
        ("refilled", "stage1", SMALL): plus([0.01 + n for n in NOISE]),
        ("refilled-triplet", "stage1", SMALL): BASE,
    }
    claims = ["refilled > refilled-triplet after stage 1"]
    bundle = made_up(numbers, methods=["refilled", "refilled-triplet"], claims=claims)
    bundle.numbers[:] = [
        replace(n, selected=0.5) if n.result == "ncm_eval_centers" else n for n in bundle.numbers
    ]
    (found,) = verdicts_of(bundle)
    assert found.outcome == "supported" and found.difference.mean == pytest.approx(0.0102)


PUBLISHED = [
    {
        "source": "a",
        "row": "KD",
        "protocol": "p | q",
        "of": "kd",
        "preset": "strict(evaluate_every=5)",
        SMALL: "91.00 ± 0.3",
        LARGE: "",
    },
    {"source": "a", "row": "?", "protocol": "p", SMALL: "1"},
    {"source": "a", "row": "T", "protocol": "p", "of": "teacher", "wrn-16-2": "95"},
]


def with_published() -> Any:
    numbers = {("kd", "kd", s): plus(NOISE) for s in (SMALL, LARGE)}
    numbers[("teacher", "teacher", "")] = BASE
    bundle = made_up(numbers, methods=["kd"], claims=["kd within 2 of a", "kd within 5 of a"])
    bundle.published.extend(PUBLISHED)
    return bundle


def test_claims_about_published_numbers() -> None:
    """Only where there is one; their spread is that of our seeds."""
    loose, strict = reversed(verdicts_of(with_published()))
    assert (loose.column, strict.column) == (SMALL, SMALL)
    assert (loose.outcome, strict.outcome) == ("supported", "undecided")
    assert strict.difference.mean == pytest.approx(0.9202 - 0.91)


def test_claims_on_published_numbers_say_that_they_count_the_seeds_alone() -> None:
    bundle = with_published()
    for number in bundle.numbers:
        number.cell.correct = CorrectPart(**CorrectPart.pack("a", right(1000, range(80))))
    sentence, _ = verdict_blocks(bundle)
    _, beside = confirmation_blocks(confirmations(bundle, bundle, bundle), ("first", "second"))
    assert isinstance(beside, ResultTable)
    for text in (str(sentence), *beside.caption):
        assert "published numbers count the seeds alone, not the choice of test images" in text
    own = with_images()
    sentence, _ = verdict_blocks(own)
    _, beside = confirmation_blocks(confirmations(own, own, own), ("first", "second"))
    assert "seeds alone" not in str(sentence)
    assert isinstance(beside, ResultTable) and not beside.caption


def test_a_number_of_another_protocol_is_not_tested() -> None:
    bundle = with_published()
    bundle.published[0] = PUBLISHED[0] | {"preset": "legacy-2020"}
    found = verdicts_of(bundle)
    assert [v.outcome for v in found] == ["not tested"] * 2
    assert "legacy-2020" in found[0].why and bundle.protocol in found[0].why


def test_ours_beside_the_published_numbers() -> None:
    kd, teacher = beside_published(with_published())
    assert (kd.row, kd.network, kd.published) == ("KD", SMALL, 0.91)
    assert kd.difference.mean == pytest.approx(0.0102)
    assert kd.difference.half_width == kd.ours.half_width
    assert (teacher.row, teacher.network, teacher.published) == ("Teacher", "wrn-16-2", 0.95)
    *texts, ours, difference = texts_of(published_blocks(with_published()))[0]
    assert texts == ["KD", SMALL, "a, p | q; strict(evaluate_every=5)", "91.00"]
    assert ours.startswith("92.02 ± ") and difference.startswith("+1.02 ± ")


def test_an_imported_teacher_is_one_run() -> None:
    """Its number stands for each seed in differences, and has no spread of its own."""
    bundle = with_published()
    for number in bundle.numbers:
        if number.method == "teacher":
            number.cell.fingerprint = "imported"
    assert beside_published(bundle)[1].ours.n == 1


def test_differences_from_the_plain_student() -> None:
    numbers = {("plain", "student", s): BASE for s in (SMALL, LARGE)}
    numbers |= {("kd", "kd", s): plus([0.01 + n for n in NOISE]) for s in (SMALL, LARGE)}
    bundle = made_up(numbers, methods=["plain", "kd"])
    found = differences_of(bundle)
    assert [(d.row, d.baseline, d.column) for d in found] == [
        ("KD", "Student", SMALL),
        ("KD", "Student", LARGE),
    ]
    assert found[0].difference.mean == pytest.approx(0.0102)
    expected = scipy.stats.t.ppf(0.975, 4) * deviation(NOISE) / math.sqrt(5)
    assert found[0].difference.half_width == pytest.approx(expected)
    number = f"+1.02 ± {100 * expected:.2f} (5)"
    assert texts_of(difference_blocks(bundle)) == [["KD", number, number]]
    # Neither raw pixels, which need no teacher either, nor a method that other tables begin with.
    numbers = {("pixels_ncm", "pixels_ncm", SMALL): BASE, **numbers}
    bundle = made_up(numbers, methods=["pixels_ncm", "plain", "kd"])
    assert {d.baseline for d in differences_of(bundle)} == {"Student"}
    assert len(differences_of(bundle)) == 4
    alone = made_up({("plain", "student", SMALL): BASE}, methods=["plain"])
    assert difference_blocks(alone) == []


def test_the_table_of_verdicts() -> None:
    numbers = {
        ("plain", "student", SMALL): BASE,
        ("kd", "kd", SMALL): plus([0.02 + n for n in NOISE]),
    }
    claims = ["kd > plain", "kd within 0.5 of plain", "kd > plain by 1.9"]
    bundle = made_up(numbers, methods=["plain", "kd"], claims=claims)
    assert count_outcomes(verdicts_of(bundle)) == "1 supported, 1 contradicted, 1 undecided"
    first, *_, last = texts_of(verdict_blocks(bundle))
    assert first == ["kd > plain", SMALL, "+2.02 ± 0.24 (5)", "< 0.001", "supported"]
    assert last[-1].startswith("undecided; ")


def test_the_tags_of_the_grids_run() -> None:
    """Counts, and a claim's outcome by column, under names that MLflow takes."""
    numbers = {("plain", "student", s): BASE for s in (SMALL, LARGE)}
    numbers |= {("kd", "kd", SMALL): plus([0.02 + n for n in NOISE])}
    numbers |= {("kd", "kd", LARGE): plus(NOISE)}
    bundle = made_up(numbers, methods=["plain", "kd"], claims=["kd > plain", "kd > plain by 1"])
    tags = tags_of(verdicts_of(bundle))
    assert tags == {
        "verdicts": "2 supported, 1 contradicted, 1 undecided",
        "verdict kd above plain": "wrn-10-1: supported; wrn-10-2: undecided",
        "verdict kd above plain by 1": "wrn-10-1: supported; wrn-10-2: contradicted",
    }
    for name in tags:
        _validate_tag_name(name)
    assert tags_of([]) == {}
