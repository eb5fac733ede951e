"""What a bundle says to the claims of its experiment, and its paired differences.

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
    """claim: as written in the file. column: of the table; "" where it depends on none.
    difference: of its sides, as a fraction, with its own 95 % t-interval. p: corrected, None
    without a spread. seeds_needed: for 80 % power at the observed difference and spread, None if
    decided, or more than MOST_SEEDS. why: of an undecided one, what would decide it."""

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
    """The row that shows it; None where the experiment does not have it."""
    for row in rows_of(bundle):
        if row.method != quantity.method:
            continue
        stage_fits = row.is_final if quantity.stage is None else row.number == quantity.stage
        result = quantity.metric or main_metric(bundle, row.result)
        if row.stage == TEACHER or (stage_fits and not row.on_teachers and row.result == result):
            return row
    return None


def by_seed(bundle: Bundle, row: Row, column: Column) -> dict[int, float]:
    """Seed -> the reported accuracy. A teacher that is one run for all seeds has it for each."""
    return {n.seed: n.accuracy(bundle.reported) for n in select_all_seeds(bundle, row, column)}


def paired(left: dict[int, float], right: dict[int, float]) -> list[float]:
    """left - right of the seeds that both have."""
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
        """Of whichever is nearer: twice the smaller one, as both are looked at."""
        return min(1.0, 2 * min(self.p_for, self.p_against)) if self.has_spread else 1.0

    def seeds_needed(self, level: float) -> int | None:
        """level: of each of the two tests."""
        mean, s = sum(self.values) / len(self.values), deviation(self.values)
        distance = (mean if self.claim.is_greater else abs(mean)) - self.claim.margin
        if self.claim.is_greater or distance > 0:
            return seeds_above(abs(distance), s, level)
        return seeds_within(-distance, s, level)


def verdicts_of(bundle: Bundle) -> list[Verdict]:
    """In the order of the claims and columns. A claim of methods that the experiment does not have
    (left out by `--set`) has none."""
    claims = [parse_claim(text) for text in bundle.experiment.get("claims", ())]
    found = [c for claim in claims for c in _comparisons(bundle, claim)]
    return [
        _verdict(c, p, len(found)) for c, p in zip(found, holm([c.p for c in found]), strict=True)
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
    """One a column in which both sides have numbers, from cells of their own."""
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
    found: dict[str, _Comparison] = {}
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
            found.setdefault(part, _Comparison(claim, part, values))
    return list(found.values())


def _network(bundle: Bundle, row: Row, column: Column) -> str:
    return column.student if row.by_student else bundle.teacher


def _same_cells(bundle: Bundle, left: Row, right: Row, column: Column) -> bool:
    """As of the teacher and of a plain student of the same network."""
    cells = ({n.cell.fingerprint for n in select(bundle, row, column)} for row in (left, right))
    return next(cells) == next(cells)


def _is_baseline(row: Row) -> bool:
    """What every method is compared with: of those trained by default the one without a teacher."""
    return row.method in DEFAULT and not get_method(row.method).needs


def differences_of(bundle: Bundle) -> list[Difference]:
    """Every method's final accuracy minus the plain student's, or the first method's where there
    is none."""
    finals = [row for row in rows_of(bundle) if row.is_final]
    plain = next((row for row in finals if _is_baseline(row)), finals[0])
    found = []
    for row in finals:
        for column in columns_of(bundle):
            values = paired(by_seed(bundle, row, column), by_seed(bundle, plain, column))
            difference = None if row is plain else estimate(values)
            if difference:
                found.append(Difference(row.label, plain.label, column.label, difference))
    return found


@dataclass(frozen=True)
class BesidePublished:
    """A published number and ours of the same quantity, as a fraction; difference: ours - theirs,
    whose interval is that of our seeds alone."""

    row: str
    network: str
    source: str
    protocol: str
    published: float
    ours: Estimate
    difference: Estimate


def beside_published(bundle: Bundle) -> list[BesidePublished]:
    """Of every published row that says which of our numbers it is."""
    found: dict[tuple[str, str], BesidePublished] = {}
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
            found[f"{source}: {published['row']}", network] = BesidePublished(
                row.label, network, source, protocol, theirs, ours, difference
            )
    return list(found.values())
