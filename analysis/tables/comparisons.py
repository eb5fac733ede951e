"""Tables of verdicts, paired differences and comparisons with other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis.bundle import Bundle
from harness.analysis.confirmations import STANDINGS, Confirmation, confirmations
from harness.analysis.reference import POWER, Checked, ReferenceCheck
from harness.analysis.statistics import LEVEL
from harness.analysis.tables.result_table import Block, Cell, ResultTable
from harness.analysis.verdicts import (
    OUTCOMES,
    Verdict,
    beside_published,
    counts_images,
    differences_of,
    p_text,
    verdicts_of,
)
from harness.experiment.claims import parse_claim

SEEDS_ALONE = (
    "The choice of test images is not counted, as the numbers are older than the record of which "
    "images are right."
)
PUBLISHED_SEEDS_ALONE = (
    "Claims on published numbers count the seeds alone, not the choice of test images."
)


def count_standings(pairs: Sequence[Confirmation]) -> str:
    """Return the standings in numbers: "3 confirmed, 1 not confirmed, 0 reversed, 0 open"."""
    return _count([pair.standing for pair in pairs], STANDINGS)


def count_outcomes(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts in numbers: "3 supported, 0 contradicted, 1 undecided"."""
    return _count([verdict.outcome for verdict in verdicts], OUTCOMES)


def _count(words: Sequence[str], names: Sequence[str]) -> str:
    """Return how often each name occurs; "not tested" is left out if nothing is."""
    counts = {name: words.count(name) for name in names}
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n or name != "not tested")


def verdict_blocks(bundle: Bundle) -> list[Block]:
    """Return the primary and the secondary verdicts, one row per claim and column.

    Nothing is returned if the experiment claims nothing.
    """
    verdicts = verdicts_of(bundle)
    blocks: list[Block] = []
    for is_primary, name in ((True, "Primary claims"), (False, "Secondary claims")):
        listed = [v for v in verdicts if v.is_primary == is_primary]
        if listed:
            rows = [_row(v) for v in listed]
            sentence = f"{name}: {count_outcomes(listed)}. {_rule(bundle, listed)}"
            head = ["claim", "", "difference", "p", "verdict"]
            blocks += [sentence, ResultTable(head, rows, align="llrrl")]
    return blocks


def _row(verdict: Verdict) -> list[Cell]:
    return [
        Cell(verdict.claim),
        Cell(verdict.column),
        Cell.points(verdict.difference),
        Cell(None if verdict.p is None else p_text(verdict.p)),
        Cell(verdict.outcome, note=f"; {verdict.why}" if verdict.why else ""),
    ]


def _rule(bundle: Bundle, verdicts: Sequence[Verdict]) -> str:
    """Return how these verdicts were reached."""
    tested = [parse_claim(v.claim) for v in verdicts if v.difference is not None]
    images = counts_images(bundle)
    notes = ["" if images else SEEDS_ALONE]
    if images and any(claim.source for claim in tested):
        notes.append(PUBLISHED_SEEDS_ALONE)
    return " ".join(
        [
            f"Differences in points, paired by seed{' and test image' * images}, with their 95 % "
            f"interval (number of seeds); decided at {100 * LEVEL:.0f} % for all {len(tested)} "
            "comparisons together (Holm).",
            *filter(None, notes),
        ]
    )


def replication_blocks(bundle: Bundle, replication: Bundle) -> list[Block]:
    """Return the verdicts of two sets of seeds side by side; nothing if nothing is claimed."""
    pairs = confirmations(bundle, replication, bundle)
    return confirmation_blocks(pairs, ("first seeds", "other seeds"))


def confirmation_blocks(pairs: Sequence[Confirmation], names: tuple[str, str]) -> list[Block]:
    """Return verdicts side by side, under these two headings; nothing if there are none."""
    if not pairs:
        return []
    rows = [
        [
            Cell(pair.first.claim, note="" if pair.first.is_primary else " (secondary)"),
            Cell(pair.column),
            *_side(pair.first),
            *_side(pair.second),
            Cell(pair.standing, bold=pair.standing == "reversed"),
        ]
        for pair in pairs
    ]
    head = ["claim", "", names[0], "", names[1], "", "standing"]
    counts = [
        f"{len(part)} {name} verdicts: {count_standings(part)}"
        for name, is_primary in (("primary", True), ("secondary", False))
        if (part := [p for p in pairs if p.first.is_primary == is_primary])
    ]
    published = any(
        pair.first.difference and parse_claim(pair.first.claim).source for pair in pairs
    )
    caption = [PUBLISHED_SEEDS_ALONE] if published else []
    return [f"{'; '.join(counts)}.", ResultTable(head, rows, align="llrlrll", caption=caption)]


def _side(verdict: Verdict | None) -> list[Cell]:
    if verdict is None:
        return [Cell(), Cell("not tested")]
    return [Cell.points(verdict.difference), Cell(verdict.outcome)]


def claims_blocks(bundle: Bundle, replication: Bundle | None) -> list[Block]:
    """Return the part of a page on an experiment's primary claims.

    With a second set of seeds, only what both decide alike is listed.
    """
    if replication is None:
        return _claims_once(bundle)
    pairs = [p for p in confirmations(bundle, replication, bundle) if p.first.is_primary]
    if not pairs:
        return []
    both = " and ".join(describe_seeds(b) for b in (bundle, replication))
    sentence = (
        f"Primary claims, tested twice, with the seeds {both}: {count_standings(pairs)}. "
        f"{_rule(bundle, [pair.first for pair in pairs])} "
    )
    confirmed = [pair for pair in pairs if pair.standing == "confirmed"]
    if not confirmed:
        return [f"{sentence}No claim is confirmed, so none is listed."]
    rows = [
        [
            Cell(pair.first.claim, code=True),
            *(Cell(pair.first.column), Cell(pair.first.outcome)),
            *(Cell.points(v.difference) for v in (pair.first, pair.second) if v),
        ]
        for pair in confirmed
    ]
    head = ["claim", "", "verdict", "difference", "with the second seeds"]
    table = ResultTable(head, rows, align="lllrr").compact()
    return [f"{sentence}Only what is confirmed is listed:", table]


def describe_seeds(bundle: Bundle) -> str:
    """Return the seeds in words: "10 to 19", or all of them if they are no sequence."""
    seeds = sorted(bundle.settings.seeds)
    if seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _claims_once(bundle: Bundle) -> list[Block]:
    """Return one row per primary claim: its difference and verdict in each column."""
    verdicts = [v for v in verdicts_of(bundle) if v.is_primary]
    if not verdicts:
        return []
    columns = list(dict.fromkeys(v.column for v in verdicts if v.difference))
    rows = []
    for claim in dict.fromkeys(v.claim for v in verdicts):
        own = {v.column: v for v in verdicts if v.claim == claim}
        why = "".join(f" not tested: {v.why}" for v in own.values() if v.difference is None)
        cells = [
            replace(Cell.points(v.difference), note=f" {v.outcome}") if v else Cell()
            for v in map(own.get, columns)
        ]
        rows.append([Cell(claim, code=True, note=why), *cells])
    sentence = (
        f"Primary claims, tested with one set of seeds: {count_outcomes(verdicts)}. "
        f"{_rule(bundle, verdicts)}"
    )
    return [sentence, ResultTable(["claim", *columns], rows).compact()]


def difference_blocks(bundle: Bundle) -> list[Block]:
    """Return each method's final accuracy minus the baseline's; nothing for a method alone."""
    differences = differences_of(bundle)
    if not differences:
        return []
    columns = list(dict.fromkeys(d.column for d in differences))
    by_place = {(d.row, d.column): d.difference for d in differences}
    rows = [
        [Cell(row), *(Cell.points(by_place.get((row, column))) for column in columns)]
        for row in dict.fromkeys(d.row for d in differences)
    ]
    sentence = (
        f"Final accuracy minus that of {differences[0].baseline}, in points, paired by seed"
        f"{' and test image' * counts_images(bundle)}, mean ± half-width of the 95 % interval "
        "(number of seeds), each for itself."
    )
    return [sentence, ResultTable(["", *columns], rows)]


def published_blocks(bundle: Bundle) -> list[Block]:
    """Return our numbers beside the published ones that name them; nothing if there are none."""
    rows = [
        [
            Cell(b.row),
            Cell(b.network),
            Cell(f"{b.source}, {b.protocol}"),
            Cell(100 * b.published),
            Cell.percent(b.ours),
            Cell.points(b.difference),
        ]
        for b in beside_published(bundle)
    ]
    head = ["", "network", "published by", "published", "ours", "difference"]
    sentence = (
        "Difference: ours - published, in points; its interval is that of our seeds alone, without "
        "the choice of test images, as the published number's spread is not known. Ours are of "
        f"protocol {bundle.protocol}."
    )
    return [sentence, ResultTable(head, rows, align="lll")] if rows else []


def comparison_table(check: ReferenceCheck) -> ResultTable:
    """Return one row per effect: yours, the reference's, and whether they agree."""
    sentence = (
        "Effects in points: a row minus the baseline, or the left side of a claim minus its right "
        "side. Deviation: yours - reference, with its 95 % t-interval. Detectable: the smallest "
        f"true deviation that would be called different in {100 * POWER:.0f} % of repetitions."
    )
    if check.numerical_noise is not None:
        sentence += (
            f" Numerical noise, the last digits of sums, is {100 * check.numerical_noise:.0f} % of "
            "an effect's variance over seeds (median; each seed was trained twice)."
        )
    head = ["effect", "", "yours", "reference", "deviation", "detectable", "verdict"]
    rows = [_checked(checked) for checked in check.checked]
    return ResultTable(head, rows, align="llrrrrl", caption=[sentence])


def _checked(checked: Checked) -> list[Cell]:
    form = Cell.points if checked.is_difference else Cell.percent
    return [
        Cell(checked.effect),
        Cell(checked.column),
        *(form(side) for side in (checked.yours, checked.theirs)),
        Cell(0) if checked.agreement == "equal" else Cell.points(checked.deviation),
        Cell(None if checked.detectable is None else 100 * checked.detectable, digits=1),
        Cell(checked.agreement, bold=checked.agreement == "differs"),
    ]
