"""Verdicts on the claims of an experiment, and paired differences.

A claim is tested on each column of the table: the differences of its two sides, paired by seed, in
one-sided t-tests for it and against it, corrected by Holm over all comparisons of the experiment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import (
    MOST_SEEDS,
    Estimate,
    deviation,
    estimate,
    has_spread,
    holm,
    p_above,
    p_within,
    seeds_above,
    seeds_within,
)
from harness.analysis.tables.rows import (
    Column,
    Row,
    cell_estimate,
    columns_of,
    main_metric,
    rows_of,
    select,
    select_all_seeds,
)
from harness.experiment.claims import Claim, Quantity, find_published, parse_claim, parse_quantity
from harness.methods import DEFAULT, get_method
from harness.plan import TEACHER

Outcome = Literal["supported", "contradicted", "undecided"]
OUTCOMES: tuple[Outcome, ...] = ("supported", "contradicted", "undecided")
LEVEL = 0.05
NO_SPREAD = "the differences have no spread"
ONE_SEED = "one seed has no spread"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim in one column.

    Attributes:
        claim: As written in the experiment file.
        column: The column's label; "" if the claim depends on no column.
        difference: Left side - right side, as a fraction, with its own 95 % t-interval.
        p: Corrected; None without a spread.
        seeds_needed: For 80 % power at the observed difference and spread; None if decided, or if
            more than MOST_SEEDS.
        why: What would decide an undecided claim.
    """

    claim: str
    column: str
    outcome: Outcome
    difference: Estimate
    p: float | None
    seeds_needed: int | None
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


def by_seed(bundle: Bundle, row: Row, column: Column) -> dict[int, float]:
    """Return seed -> the reported accuracy; one run of all seeds counts for each."""
    return {n.seed: n.accuracy(bundle.reported) for n in select_all_seeds(bundle, row, column)}


def paired(left: dict[int, float], right: dict[int, float]) -> list[float]:
    """Return left - right for each seed that both have."""
    return [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]


@dataclass(frozen=True)
class _Comparison:
    claim: Claim
    column: str
    values: list[float]

    @property
    def has_spread(self) -> bool:
        return has_spread(self.values)

    @property
    def p_for(self) -> float:
        margin = self.claim.margin
        return (p_above if self.claim.is_greater else p_within)(self.values, margin)

    @property
    def p_against(self) -> float:
        margin, negated = self.claim.margin, [-v for v in self.values]
        if self.claim.is_greater:
            return p_above(negated, -margin)
        return min(p_above(self.values, margin), p_above(negated, margin))

    @property
    def p(self) -> float:
        """The two-sided p: twice the smaller one, as both directions are tested."""
        return min(1.0, 2 * min(self.p_for, self.p_against)) if self.has_spread else 1.0

    def seeds_needed(self, level: float) -> int | None:
        """Return the seeds that would decide the claim, with each test at `level`."""
        mean, s = sum(self.values) / len(self.values), deviation(self.values)
        distance = (mean if self.claim.is_greater else abs(mean)) - self.claim.margin
        if self.claim.is_greater or distance > 0:
            return seeds_above(abs(distance), s, level)
        return seeds_within(-distance, s, level)


def verdicts_of(bundle: Bundle) -> list[Verdict]:
    """Return the verdicts in the order of claims and columns.

    A claim about a method that the experiment does not have (left out by `--set`) has none.
    """
    claims = [parse_claim(text) for text in bundle.experiment.get("claims", ())]
    comparisons = [c for claim in claims for c in _comparisons(bundle, claim)]
    adjusted = holm([comparison.p for comparison in comparisons])
    return [
        _verdict(comparison, p, len(comparisons))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _verdict(comparison: _Comparison, p: float, n_comparisons: int) -> Verdict:
    difference = estimate(comparison.values)
    assert difference is not None
    text, column = comparison.claim.text, comparison.column
    if not comparison.has_spread:
        why = ONE_SEED if difference.n == 1 else NO_SPREAD
        return Verdict(text, column, "undecided", difference, None, None, why)
    if p <= LEVEL:
        is_for = comparison.p_for < comparison.p_against
        outcome: Outcome = "supported" if is_for else "contradicted"
        return Verdict(text, column, outcome, difference, p, None, "")
    seeds = comparison.seeds_needed(LEVEL / 2 / n_comparisons)
    needed = f"about {seeds}" if seeds else f"more than {MOST_SEEDS:,}"
    why = f"{needed} seeds would decide it"
    return Verdict(text, column, "undecided", difference, p, seeds, why)


def _comparisons(bundle: Bundle, claim: Claim) -> list[_Comparison]:
    """Return one comparison per column in which both sides have numbers from different cells."""
    if claim.right is None:
        published, quantity = find_published(claim, bundle.published)
        left, right = row_of(bundle, quantity), None
    else:
        published = {}
        left, right = row_of(bundle, claim.left), row_of(bundle, claim.right)
        if right is None:
            return []
    if left is None:
        return []
    comparisons: dict[str, _Comparison] = {}
    for column in columns_of(bundle):
        ours = by_seed(bundle, left, column)
        if right is None:
            text = published.get(_network(bundle, left, column), "")
            theirs = dict.fromkeys(ours, float(text.partition(" ")[0]) / 100) if text else {}
            part = column.part(left)
        else:
            theirs = (
                {} if _same_cells(bundle, left, right, column) else by_seed(bundle, right, column)
            )
            part = column.part(left) or column.part(right)
        if values := paired(ours, theirs):
            comparisons.setdefault(part, _Comparison(claim, part, values))
    return list(comparisons.values())


def _network(bundle: Bundle, row: Row, column: Column) -> str:
    return column.student if row.by_student else bundle.teacher


def _same_cells(bundle: Bundle, left: Row, right: Row, column: Column) -> bool:
    """Return whether both are the same cells, as teacher and plain student of one network are."""
    cells = ({n.cell.fingerprint for n in select(bundle, row, column)} for row in (left, right))
    return next(cells) == next(cells)


def _is_baseline(row: Row) -> bool:
    """Return whether a row is the default baseline: trained by default, without a teacher."""
    return row.method in DEFAULT and not get_method(row.method).needs


def differences_of(bundle: Bundle) -> list[Difference]:
    """Return every method's final accuracy minus the baseline's.

    The baseline is the plain student, or the first method if there is none.
    """
    finals = [row for row in rows_of(bundle) if row.is_final]
    plain = next((row for row in finals if _is_baseline(row)), finals[0])
    differences = []
    for row in finals:
        for column in columns_of(bundle):
            values = paired(by_seed(bundle, row, column), by_seed(bundle, plain, column))
            difference = None if row is plain else estimate(values)
            if difference:
                differences.append(Difference(row.label, plain.label, column.label, difference))
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
        row = row_of(bundle, parse_quantity(published["of"])) if published.get("of") else None
        for column in columns_of(bundle) if row else ():
            assert row is not None
            network = _network(bundle, row, column)
            text, ours = published.get(network, ""), cell_estimate(bundle, row, column)
            if not text or ours is None:
                continue
            theirs = float(text.partition(" ")[0]) / 100
            difference = Estimate(ours.mean - theirs, ours.half_width, ours.n)
            source, protocol = published["source"], published["protocol"]
            pairs[f"{source}: {published['row']}", network] = BesidePublished(
                row.label, network, source, protocol, theirs, ours, difference
            )
    return list(pairs.values())
