"""Verdicts on the claims of an experiment, and paired differences.

A claim is tested on each column of the table: the differences of its two sides, paired by seed and
by test image, in one-sided t-tests for it and against it. Holm's correction covers all comparisons
of the primary claims, and apart from them those of the secondary ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis.bundle import Bundle
from harness.analysis.bundle_fields import Number
from harness.analysis.power import AssumedEffect, seeds_to_decide
from harness.analysis.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    Estimate,
    SampleMean,
    crossed_mean,
    holm,
    sample_mean,
)
from harness.analysis.tables.rows import (
    Column,
    Row,
    cell_estimate,
    columns_of,
    is_main,
    main_metric,
    network_of,
    rows_of,
    select,
    select_all_seeds,
)
from harness.common.metrics import ACCURACY, NCM_METRICS
from harness.experiment.claims import Claim, Quantity, find_published, parse_claim, row_quantity
from harness.experiment.published import (
    published_accuracy,
    published_protocol,
    why_not_comparable,
)
from harness.methods import DEFAULT, get_method
from harness.plan import TEACHER

Outcome = Literal["supported", "contradicted", "undecided", "not tested"]
OUTCOMES: tuple[Outcome, ...] = ("supported", "contradicted", "undecided", "not tested")
DECIDED: tuple[Outcome, ...] = ("supported", "contradicted")
NO_SPREAD = "the differences have no spread"
ONE_SEED = "one seed has no spread"
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim in one column.

    Attributes:
        claim: As written in the experiment file.
        column: The column's label; "" if the claim depends on no column, or is not tested.
        is_primary: Whether the claim is one of the experiment's primary ones.
        difference: Left side - right side, as a fraction, with its own 95 % interval; None if the
            claim is not tested.
        p: Corrected; None without a spread.
        why: What would decide an undecided claim, or why it is not tested.
    """

    claim: str
    column: str
    is_primary: bool
    outcome: Outcome
    difference: Estimate | None
    p: float | None
    why: str


def p_text(p: float) -> str:
    """Return a p-value with three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@dataclass(frozen=True)
class Difference:
    """A row of the table minus another one, paired by seed, in one column, as a fraction."""

    row: str
    baseline: str
    column: str
    difference: Estimate


def row_of(bundle: Bundle, quantity: Quantity) -> Row | None:
    """Return the row that shows a quantity; None if the experiment does not have it."""
    for row in rows_of(bundle):
        if row.method != quantity.method:
            continue
        stage_fits = row.is_final if quantity.stage is None else row.number == quantity.stage
        result = quantity.metric or main_metric(bundle, row.result)
        if row.stage == TEACHER or (stage_fits and not row.on_teachers and row.result == result):
            return row
    return None


def by_seed(bundle: Bundle, row: Row, column: Column) -> dict[int, Number]:
    """Return seed -> the number; one run of all seeds counts for each."""
    return {n.seed: n for n in select_all_seeds(bundle, row, column)}


def paired(left: dict[int, float], right: dict[int, float]) -> list[float]:
    """Return left - right for each seed that both have."""
    return [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]


def accuracies(bundle: Bundle, numbers: dict[int, Number]) -> dict[int, float]:
    """Return seed -> the reported accuracy."""
    return {seed: number.accuracy(bundle.reported) for seed, number in numbers.items()}


def paired_mean(
    bundle: Bundle, left: dict[int, Number], right: dict[int, Number]
) -> SampleMean | None:
    """Return the mean of left - right, paired by seed and, where they are known, by test image.

    Returns:
        None if no seed has both. The choice of test images counts only if both sides were measured
        on the same images and the bundle says which of them are right.
    """
    differences = paired(accuracies(bundle, left), accuracies(bundle, right))
    if not differences:
        return None
    seeds = sorted(left.keys() & right.keys())
    sides = [[_correct_images(bundle, side[seed]) for seed in seeds] for side in (left, right)]
    images = {part[0] for side in sides for part in side}
    if len(images) > 1 or None in images:
        return sample_mean(differences)
    first, second = (np.array([correct for _, correct in side], dtype=float) for side in sides)
    return crossed_mean(first - second)


def _correct_images(bundle: Bundle, number: Number) -> tuple[str | None, np.ndarray]:
    """Return the digest of the test images and whether each is right; None if it is not known."""
    cell = number.cell
    if cell.correct is None or not (
        number.result == ACCURACY
        or (number.result in NCM_METRICS and is_main(bundle, number.result))
    ):
        return None, np.zeros(0)
    assert cell.correct_images is not None
    return cell.correct.images, cell.correct_images


def counts_images(bundle: Bundle) -> bool:
    """Return whether the bundle says which test images are right, so that their choice counts."""
    return all(cell.correct is not None for cell in bundle.cells)


@dataclass(frozen=True)
class Comparison:
    """A claim in one column: the mean difference of its sides, before any correction."""

    claim: Claim
    column: str
    mean: SampleMean

    @property
    def p_for(self) -> float:
        """One-sided p of the claim."""
        margin = self.claim.margin
        return self.mean.p_above(margin) if self.claim.is_greater else self.mean.p_within(margin)

    @property
    def p_against(self) -> float:
        """One-sided p of its opposite."""
        margin = self.claim.margin
        if self.claim.is_greater:
            return self.mean.p_below(margin)
        return min(self.mean.p_above(margin), self.mean.p_below(-margin))

    @property
    def p(self) -> float:
        """The two-sided p: twice the smaller one, as both directions are tested."""
        return min(1.0, 2 * min(self.p_for, self.p_against)) if self.mean.has_spread else 1.0

    @property
    def observed(self) -> AssumedEffect:
        """The observed difference and its spreads, in the form in which a plan assumes them.

        The mean must have a spread.
        """
        mean, over_seeds = self.mean, self.mean.over_seeds or self.mean
        assert mean.error is not None and over_seeds.error is not None
        return AssumedEffect(
            mean.mean,
            over_seeds.error * mean.n**0.5,
            max(mean.error**2 - over_seeds.error**2, 0) ** 0.5,
            self.claim.margin,
            self.claim.is_greater,
        )


def verdicts_of(bundle: Bundle, claims_of: Bundle | None = None) -> list[Verdict]:
    """Return the verdicts in the order of claims and columns, the primary ones first.

    Args:
        bundle: The numbers.
        claims_of: The bundle whose claims are tested; by default the same one.
    """
    settings = (claims_of or bundle).settings
    return [
        verdict
        for is_primary, claims in ((True, settings.claims), (False, settings.secondary_claims))
        for verdict in _corrected(bundle, [parse_claim(text) for text in claims], is_primary)
    ]


def _corrected(bundle: Bundle, claims: Sequence[Claim], is_primary: bool) -> list[Verdict]:
    """Return the verdicts on claims that are corrected together."""
    sides = {claim.text: compare_sides(bundle, claim) for claim in claims}
    comparisons = [c for compared in sides.values() for c in compared.comparisons]
    adjusted = iter(holm([comparison.p for comparison in comparisons]).tolist())
    verdicts = []
    for text, compared in sides.items():
        if why := compared.why_not_tested:
            verdicts.append(Verdict(text, "", is_primary, "not tested", None, None, why))
        verdicts += [
            _verdict(comparison, next(adjusted), len(comparisons), is_primary)
            for comparison in compared.comparisons
        ]
    return verdicts


def _verdict(comparison: Comparison, p: float, n_comparisons: int, is_primary: bool) -> Verdict:
    mean, difference = comparison.mean, comparison.mean.interval()
    text, column = comparison.claim.text, comparison.column
    if not mean.has_spread:
        why = ONE_SEED if mean.n == 1 else NO_SPREAD
        return Verdict(text, column, is_primary, "undecided", difference, None, why)
    if p <= LEVEL:
        is_for = comparison.p_for < comparison.p_against
        outcome: Outcome = "supported" if is_for else "contradicted"
        return Verdict(text, column, is_primary, outcome, difference, p, "")
    why = ""
    if mean.n >= FEWEST_SEEDS:  # fewer say too little about the spread
        low, high = seeds_to_decide(comparison.observed, mean.n, LEVEL / 2 / n_comparisons)
        why = f"{_range_of_seeds(low, high)} seeds would probably decide it"
    return Verdict(text, column, is_primary, "undecided", difference, p, why)


def _range_of_seeds(low: float, high: float) -> str:
    """Return "12 to 60"; nobody trains more than MOST_SEEDS."""
    if low > MOST_SEEDS:
        return f"more than {MOST_SEEDS:,}"
    end = f"more than {MOST_SEEDS:,}" if high > MOST_SEEDS else f"{high:,.0f}"
    return f"{low:,.0f} to {end}"


@dataclass(frozen=True)
class ComparedSides:
    """The two sides of a claim in each column.

    Attributes:
        comparisons: One per column in which both sides have numbers from different cells.
        why_not_tested: The reason why there are none; else "".
    """

    comparisons: Sequence[Comparison] = ()
    why_not_tested: str = ""


def compare_sides(bundle: Bundle, claim: Claim) -> ComparedSides:
    """Compare the two sides of a claim, or say why it cannot be tested."""
    quantities = [claim.left, *([claim.right] if claim.right else [])]
    published: dict[str, str] = {}
    if claim.right is None:
        published, quantities[0] = find_published(claim, bundle.published)
        if why := why_not_comparable(published, bundle.protocol):
            return ComparedSides(why_not_tested=why)
    rows = [row_of(bundle, quantity) for quantity in quantities]
    missing = [q.method for q, row in zip(quantities, rows, strict=True) if row is None]
    if missing:
        return ComparedSides(why_not_tested=f"{' and '.join(missing)} is no method here")
    left, *others = [row for row in rows if row]
    comparisons: dict[str, Comparison] = {}
    for column in columns_of(bundle):
        ours = by_seed(bundle, left, column)
        if not others:
            text = published.get(_published_under(bundle, left, column), "")
            part = column.part(left)
            values = accuracies(bundle, ours).values() if text else ()
            theirs = published_accuracy(text) if text else 0.0
            mean = sample_mean([v - theirs for v in values]) if values else None
        else:
            (right,) = others
            if are_same_cells(bundle, left, right, column):
                continue
            part = column.part(left, right)
            mean = paired_mean(bundle, ours, by_seed(bundle, right, column))
        if mean:
            comparisons.setdefault(part, Comparison(claim, part, mean))
    if not comparisons:
        return ComparedSides(why_not_tested="no column has numbers of both sides")
    return ComparedSides([*comparisons.values()])


def _published_under(bundle: Bundle, row: Row, column: Column) -> str:
    """Return the name of the published column that a number stands beside."""
    return column.networks if column.teacher else network_of(bundle, row, column)


def are_same_cells(bundle: Bundle, left: Row, right: Row, column: Column) -> bool:
    """Return whether both are the same cells, as teacher and plain student of one network are."""
    cells = ({n.cell.fingerprint for n in select(bundle, row, column)} for row in (left, right))
    return next(cells) == next(cells)


def _is_baseline(row: Row) -> bool:
    """Return whether a row is the default baseline: trained by default, without a teacher."""
    return row.method in DEFAULT and not get_method(row.method).needs


def baseline_of(bundle: Bundle) -> Row:
    """Return the row of the plain student, or of the first method if there is none."""
    finals = [row for row in rows_of(bundle) if row.is_final]
    return next((row for row in finals if _is_baseline(row)), finals[0])


def differences_of(bundle: Bundle) -> list[Difference]:
    """Return every method's final accuracy minus the baseline's."""
    finals, plain = [row for row in rows_of(bundle) if row.is_final], baseline_of(bundle)
    differences = []
    for row in finals:
        for column in columns_of(bundle):
            sides = (by_seed(bundle, r, column) for r in (row, plain))
            mean = None if row == plain else paired_mean(bundle, *sides)
            if mean:
                interval = mean.interval()
                differences.append(Difference(row.label, plain.label, column.label, interval))
    return differences


@dataclass(frozen=True)
class BesidePublished:
    """A published number and ours of the same quantity, as fractions.

    Attributes:
        difference: Ours - theirs; its interval is that of our seeds alone.
    """

    row: str
    network: str
    source: str
    protocol: str
    published: float
    ours: Estimate
    difference: Estimate


def beside_published(bundle: Bundle) -> list[BesidePublished]:
    """Return our number beside each published one that names it."""
    pairs: dict[tuple[str, str], BesidePublished] = {}
    for published in bundle.published:
        quantity = row_quantity(published)
        row = row_of(bundle, quantity) if quantity else None
        for column in columns_of(bundle) if row else ():
            assert row is not None
            network = _published_under(bundle, row, column)
            text, ours = published.get(network, ""), cell_estimate(bundle, row, column)
            if not text or ours is None:
                continue
            theirs = published_accuracy(text)
            difference = Estimate(ours.mean - theirs, ours.half_width, ours.n)
            source, protocol = published["source"], published_protocol(published)
            pairs[f"{source}: {published['row']}", network] = BesidePublished(
                row.label, network, source, protocol, theirs, ours, difference
            )
    return list(pairs.values())
