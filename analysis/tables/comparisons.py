"""Verdicts, paired differences and published numbers as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.bundle import Bundle
from harness.analysis.reference import Checked, Comparison
from harness.analysis.tables.text import escaped, table
from harness.analysis.verdicts import (
    LEVEL,
    OUTCOMES,
    Verdict,
    beside_published,
    differences_of,
    p_said,
    verdicts_of,
)

AGREEMENTS = {
    "equal": "equal",
    "agrees": "agrees",
    "differs": "**differs**",
    "one run": "one run, no spread",
}


def counted(verdicts: Sequence[Verdict]) -> str:
    """ "3 supported, 0 contradicted, 1 undecided"."""
    return ", ".join(f"{sum(v.outcome == o for v in verdicts)} {o}" for o in OUTCOMES)


def verdicts_markdown(bundle: Bundle) -> str:
    """What the experiment claims, and what its numbers say to it; "" if it claims nothing."""
    verdicts = verdicts_of(bundle)
    if not verdicts:
        return ""
    lines = [
        [
            escaped(v.claim),
            v.column,
            v.difference.points(),
            "–" if v.p is None else escaped(p_said(v.p)),
            f"{v.outcome}{'; ' if v.why else ''}{v.why}",
        ]
        for v in verdicts
    ]
    said = (
        f"Claims: {counted(verdicts)}. Differences in points, paired by seed, with their 95 % "
        f"t-interval (number of seeds); a claim is decided at {100 * LEVEL:.0f} % for all "
        f"{len(verdicts)} comparisons together (Holm)."
    )
    return f"{said}\n\n{table(['claim', '', 'difference', 'p', 'verdict'], lines, 'llrrl')}"


def differences_markdown(bundle: Bundle) -> str:
    """Each method's final accuracy minus the plain student's; "" for a method alone."""
    found = differences_of(bundle)
    if not found:
        return ""
    columns = list(dict.fromkeys(d.column for d in found))
    cells = {(d.row, d.column): d.difference.points() for d in found}
    rows = list(dict.fromkeys(d.row for d in found))
    lines = [[escaped(row), *(cells.get((row, c), "–") for c in columns)] for row in rows]
    said = (
        f"Final accuracy minus that of {found[0].baseline}, in points, paired by seed, mean ± "
        "half-width of the 95 % t-interval (number of seeds), each for itself."
    )
    return f"{said}\n\n{table(['', *map(escaped, columns)], lines)}"


def published_markdown(bundle: Bundle) -> str:
    """Ours beside the published numbers that say which of ours they are; "" for none."""
    found = beside_published(bundle)
    if not found:
        return ""
    lines = [
        [
            escaped(b.row),
            b.network,
            escaped(f"{b.source}, {b.protocol}"),
            f"{100 * b.published:.2f}",
            b.ours.percent(),
            b.difference.points(),
        ]
        for b in found
    ]
    said = (
        "Difference: ours - published, in points; its interval is that of our seeds alone, as the "
        "published number's spread is not known."
    )
    head = ["", "network", "published by", "published", "ours", "difference"]
    return f"{said}\n\n{table(head, lines, 'lllrrr')}"


def comparison_markdown(comparison: Comparison) -> str:
    """A number a line: yours, the reference's, the verdict."""
    lines = [_checked(c) for c in comparison.checked]
    head = ["", "", "yours", "reference", "difference", "verdict"]
    said = (
        f"Difference: yours - reference, in points, ± an interval that holds for all "
        f"{len(lines)} numbers together (95 %, Bonferroni)."
    )
    return f"{table(head, lines, 'llrrrl')}\n{said}\n"


def _checked(c: Checked) -> list[str]:
    difference = "0" if c.agreement == "equal" else c.difference.points()
    texts = [escaped(c.row), escaped(c.column), c.yours.percent(), c.theirs.percent()]
    return [*texts, difference, AGREEMENTS[c.agreement]]
