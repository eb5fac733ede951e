"""Tables of verdicts, paired differences and comparisons with other numbers."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.bundle import Bundle
from harness.analysis.reference import Agreement, Checked, Comparison
from harness.analysis.tables.result_table import Block, Cell, ResultTable
from harness.analysis.verdicts import (
    LEVEL,
    OUTCOMES,
    Verdict,
    beside_published,
    differences_of,
    p_text,
    verdicts_of,
)

AGREEMENTS: dict[Agreement, Cell] = {
    "equal": Cell("equal"),
    "agrees": Cell("agrees"),
    "differs": Cell("differs", bold=True),
    "one run": Cell("one run, no spread"),
}


def count_outcomes(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts in numbers: "3 supported, 0 contradicted, 1 undecided"."""
    return ", ".join(f"{sum(v.outcome == o for v in verdicts)} {o}" for o in OUTCOMES)


def verdict_blocks(bundle: Bundle) -> list[Block]:
    """Return one row per claim and column; nothing if the experiment claims nothing."""
    verdicts = verdicts_of(bundle)
    if not verdicts:
        return []
    sentence = (
        f"Claims: {count_outcomes(verdicts)}. Differences in points, paired by seed, with their "
        f"95 % t-interval (number of seeds); a claim is decided at {100 * LEVEL:.0f} % for all "
        f"{len(verdicts)} comparisons together (Holm)."
    )
    rows = [
        [
            Cell(v.claim),
            Cell(v.column),
            Cell.points(v.difference),
            Cell(None if v.p is None else p_text(v.p)),
            Cell(v.outcome, note=f"; {v.why}" if v.why else ""),
        ]
        for v in verdicts
    ]
    head = ["claim", "", "difference", "p", "verdict"]
    return [sentence, ResultTable(head, rows, align="llrrl")]


def claims_blocks(bundle: Bundle) -> list[Block]:
    """Return one row per claim: its outcomes among the columns of the table."""
    verdicts = verdicts_of(bundle)
    if not verdicts:
        return []
    rows = []
    for claim in dict.fromkeys(v.claim for v in verdicts):
        own = [v for v in verdicts if v.claim == claim]
        counts = (sum(v.outcome == outcome for v in own) for outcome in OUTCOMES)
        rows.append([Cell(claim, code=True), *(Cell(n or None) for n in counts), Cell(_range(own))])
    sentence = (
        "Claims of this experiment, tested on each column: paired t-tests at "
        f"{100 * LEVEL:.0f} % for all {len(verdicts)} comparisons together (Holm)."
    )
    return [sentence, ResultTable(["claim", *OUTCOMES, "difference in points"], rows)]


def _range(verdicts: Sequence[Verdict]) -> str:
    means = sorted(100 * v.difference.mean for v in verdicts)
    return f"{means[0]:+.1f}" + (f" to {means[-1]:+.1f}" if len(means) > 1 else "")


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
        f"Final accuracy minus that of {differences[0].baseline}, in points, paired by seed, mean "
        "± half-width of the 95 % t-interval (number of seeds), each for itself."
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
        "Difference: ours - published, in points; its interval is that of our seeds alone, as the "
        "published number's spread is not known."
    )
    return [sentence, ResultTable(head, rows, align="lll")] if rows else []


def comparison_table(comparison: Comparison) -> ResultTable:
    """Return one row per number: yours, the reference's, and whether they agree."""
    sentence = (
        f"Difference: yours - reference, in points, ± an interval that holds for all "
        f"{len(comparison.checked)} numbers together (95 %, Bonferroni)."
    )
    head = ["", "", "yours", "reference", "difference", "verdict"]
    rows = [_checked(checked) for checked in comparison.checked]
    return ResultTable(head, rows, align="llrrrl", caption=[sentence])


def _checked(checked: Checked) -> list[Cell]:
    is_equal = checked.agreement == "equal"
    return [
        Cell(checked.row),
        Cell(checked.column),
        Cell.percent(checked.yours),
        Cell.percent(checked.theirs),
        Cell(0) if is_equal else Cell.points(checked.difference),
        AGREEMENTS[checked.agreement],
    ]
