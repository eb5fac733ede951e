"""The power of the claims of an experiment that is not trained yet, for `harness plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.bundle import Bundle, bundle_path
from harness.analysis.bundle_fields import CellRecord, Number
from harness.analysis.power import (
    ENOUGH,
    MOST_PLANNED,
    REPETITIONS,
    AssumedEffect,
    fewest_seeds,
    power,
)
from harness.analysis.tables.result_table import Block, Cell, ResultTable
from harness.analysis.verdicts import compare_sides
from harness.common.metrics import measured_metrics
from harness.experiment.claims import Claim, is_same_number, parse_claim, row_quantity
from harness.experiment.published import published_accuracy
from harness.plan import Plan

EFFECT, SPREAD = 0.01, 0.005  # assumed where nothing else is known, as fractions
# The standard deviation over images of the difference of two methods, averaged over seeds: one
# image is right more often with one method, another with the other one. Trained students of the
# digits with 5 images per class have 0.03 to 0.08 (experiments/results/digits.jsonl).
OVER_IMAGES = 0.06
ASSUMED = "assumed"


@dataclass(frozen=True)
class PlannedClaim:
    """A claim in one column, and what is assumed of it.

    Attributes:
        effect_from: Where the difference comes from.
        spread_from: Where the spreads come from.
    """

    claim: Claim
    assumed: AssumedEffect
    effect_from: str
    spread_from: str


@dataclass(frozen=True)
class Assumptions:
    """The true differences and spreads to assume.

    Attributes:
        reference: Committed results of the experiment.
        effect: The true difference of `>` claims, as a fraction; None to take it from published
            numbers, the reference or EFFECT, whichever comes first.
        spread: The standard deviation over seeds of a paired difference, as a fraction; None to
            take it from the reference or SPREAD.
    """

    reference: Bundle | None = None
    effect: float | None = None
    spread: float | None = None


def power_blocks(
    plan: Plan, published: list[dict[str, str]], assumptions: Assumptions
) -> list[Block]:
    """Return the power of each claim, and a warning for primary claims that have too little.

    Args:
        plan: The experiment's.
        published: The rows of its published numbers.
        assumptions: Of the true differences and their spreads.

    Returns:
        Nothing if the experiment claims nothing.
    """
    n = len(plan.experiment.seeds)
    empty = _without_numbers(plan, published)
    blocks: list[Block] = [
        f"warning: {claim.text!r} will not be tested: {why}"
        for claim in plan.experiment.parsed_claims
        if (why := compare_sides(empty, claim).why_not_tested)
    ]
    for name, planned in planned_claims(plan, published, assumptions).items():
        if not planned:
            continue
        powers = power([p.assumed for p in planned], n)
        sentence = (
            f"Power of the {name} claims with {n} seed{'s' * (n > 1)}: the share of repetitions in "
            f"which a claim is decided as the assumed difference says ({len(planned)} comparisons "
            f"together, {REPETITIONS:,} simulated repetitions):"
        )
        blocks += [sentence, _table(planned, powers)]
        if name == "primary" and (weak := _weak(planned, powers)):
            blocks.append(f"warning: {weak}")
    return blocks


def planned_claims(
    plan: Plan, published: list[dict[str, str]], assumptions: Assumptions
) -> dict[str, list[PlannedClaim]]:
    """Return the primary and the secondary claims in each column (arguments of `power_blocks`)."""
    experiment, empty = plan.experiment, _without_numbers(plan, published)
    return {
        name: [p for text in texts for p in planned_of(empty, parse_claim(text), plan, assumptions)]
        for name, texts in (
            ("primary", experiment.claims),
            ("secondary", experiment.secondary_claims),
        )
    }


def planned_of(
    empty: Bundle, claim: Claim, plan: Plan, assumptions: Assumptions
) -> list[PlannedClaim]:
    """Return the planned claim for each column in which it will be tested.

    Args:
        empty: The plan's table without numbers.
        claim: One of its experiment's.
        plan: The plan.
        assumptions: Of the true differences and their spreads.
    """
    reference = assumptions.reference
    found = compare_sides(reference, claim).comparisons if reference else ()
    seen = {c.column: c for c in found if c.mean.has_spread}
    planned = []
    for column in [c.column for c in compare_sides(empty, claim).comparisons]:
        observed = seen[column].observed if column in seen else None
        source = reference.path.name if reference else ""
        difference, effect_from = _effect(empty, claim, column, assumptions, observed, source)
        spread, spread_from = (observed.spread, source) if observed else (SPREAD, ASSUMED)
        if assumptions.spread is not None:
            spread, spread_from = assumptions.spread, "--spread"
        # Claims on published numbers leave out the choice of test images (harness verdicts).
        images = 0.0 if claim.right is None else OVER_IMAGES / math.sqrt(_n_test_images(plan))
        if observed and seen[column].mean.over_seeds:
            images = observed.image_error
        assumed = AssumedEffect(difference, spread, images, claim.margin, claim.is_greater)
        planned.append(PlannedClaim(claim, assumed, effect_from, spread_from))
    return planned


def _effect(
    empty: Bundle,
    claim: Claim,
    column: str,
    assumptions: Assumptions,
    observed: AssumedEffect | None,
    source: str,
) -> tuple[float, str]:
    """Return the true difference of the two sides to assume, as a fraction, and its source."""
    if assumptions.effect is not None and claim.is_greater:
        return assumptions.effect, "--effect"
    if (published := _published_difference(empty, claim, column)) is not None:
        return published
    if observed:
        return observed.difference, source
    return (EFFECT, ASSUMED) if claim.is_greater else (0.0, ASSUMED)


def _published_difference(empty: Bundle, claim: Claim, network: str) -> tuple[float, str] | None:
    """Return the difference of the two sides in one source, and the source; None if there is none.

    A claim that our number is within a margin of a published one assumes that they are equal.
    """
    if claim.right is None:
        return 0.0, str(claim.source)
    left, right = (
        {
            row["source"]: row.get(network, "")
            for row in empty.published
            if is_same_number(row_quantity(row), quantity)
        }
        for quantity in (claim.left, claim.right)
    )
    for source in left:
        if left[source] and right.get(source):
            return published_accuracy(left[source]) - published_accuracy(right[source]), source
    return None


def _n_test_images(plan: Plan) -> float:
    """Return the number of test images of a student's task."""
    assert plan.images is not None
    n, tasks = plan.images.parts["test"], plan.experiment.tasks
    return n if tasks is None or tasks.classes is None else n * tasks.classes / plan.images.classes


def _without_numbers(plan: Plan, published: list[dict[str, str]]) -> Bundle:
    """Return the plan's table with 0 for every number, so that claims can find their columns.

    It has the first seed alone: the others have the same columns.
    """
    numbers = [
        Number(
            *(entry.stage, entry.method, entry.student, entry.seed, entry.task, result),
            *(0.0, 0.0, 0.0),
            CellRecord.model_construct(fingerprint=entry.fingerprint, correct=None),
            entry.teacher,
        )
        for entry in plan.entries
        if entry.seed == plan.experiment.seeds[0]
        for result in measured_metrics(plan.cells[entry.fingerprint].metric)
    ]
    experiment = plan.experiment
    resolved, label = experiment.model_dump(mode="json"), experiment.protocol_label
    reported = experiment.protocol.reported
    return Bundle(
        bundle_path(plan), resolved, "", reported, label, published, numbers, {}, {}, None
    )


def _table(planned: Sequence[PlannedClaim], powers: Sequence[float]) -> ResultTable:
    """Return one row per claim, with the range over its columns."""
    rows = []
    for claim in dict.fromkeys(p.claim for p in planned):
        own = [i for i, p in enumerate(planned) if p.claim == claim]
        comparisons = [planned[i].assumed for i in own]
        rows.append(
            [
                Cell(claim.text),
                Cell(str(len(own))),
                Cell(_range([100 * c.difference for c in comparisons], "+.1f")),
                Cell(_range([100 * c.spread for c in comparisons], ".2f")),
                Cell(_range([100 * c.image_error for c in comparisons], ".2f")),
                Cell(f"{_range([100 * powers[i] for i in own], '.0f')} %"),
                Cell(", ".join(dict.fromkeys(planned[i].effect_from for i in own))),
                Cell(", ".join(dict.fromkeys(planned[i].spread_from for i in own))),
            ]
        )
    caption = (
        "Assumed, in points: the true difference, and its standard deviation over seeds and over "
        "sets of test images; --effect and --spread override them."
    )
    head = ["claim", "columns", "difference", "over seeds", "over images", "power", "effect from",
            "spread from"]  # fmt: skip
    return ResultTable(head, rows, align="lrrrrrll", caption=[caption])


def _range(values: Sequence[float], form: str) -> str:
    ends = dict.fromkeys(format(value, form) for value in (min(values), max(values)))
    return " to ".join(ends)


def _weak(planned: Sequence[PlannedClaim], powers: Sequence[float]) -> str:
    """Return the warning on claims with too little power; "" if none has too little."""
    weak = dict.fromkeys(
        p.claim.text for p, share in zip(planned, powers, strict=True) if share < ENOUGH
    )
    if not weak:
        return ""
    needed = fewest_seeds([p.assumed for p in planned])
    seeds = f"{needed} seeds" if needed else f"more than {MOST_PLANNED} seeds, if any number"
    return (
        f"the power is below {100 * ENOUGH:.0f} % in at least one column of {', '.join(weak)}; "
        f"every column would need {seeds}. Fewer primary claims need fewer seeds."
    )
