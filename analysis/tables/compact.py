"""The README's summary of a bundle: final accuracies alone, and its verdicts in a line each.

It stands between `<!-- summary:NAME -->` and `<!-- /summary:NAME -->`.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import Estimate
from harness.analysis.tables.rows import (
    DASH,
    Column,
    Row,
    best_rows,
    cell_estimate,
    columns_of,
    final_rows,
    tables_of,
)
from harness.analysis.tables.text import escaped, table
from harness.analysis.verdicts import LEVEL, OUTCOMES, Verdict, verdicts_of
from harness.common.metrics import SELECTION_RULE_TEXTS

KIND = "summary"  # of marker


def summary_markdown(bundle: Bundle, whole: str, runs: str) -> str:
    """
    Args:
        whole, runs: links to the page with the whole table and to the page of runs.
    """
    caption = (
        f"{_said(bundle)}; the best student of a column is bold. {_protocol(bundle)} "
        f"[Everything measured]({whole}), [every run]({runs})."
    )
    return "\n".join([*_finals(bundle), caption, *_claims(verdicts_of(bundle))]) + "\n"


def result_markdown(bundle: Bundle) -> str:
    """The same table for who has just trained it."""
    return "\n".join([*_finals(bundle), f"{_said(bundle)}. {_protocol(bundle)}"])


def _finals(bundle: Bundle) -> list[str]:
    """Tables of the final accuracies."""
    rows = final_rows(bundle)
    parts = []
    for one in tables_of(columns_of(bundle)):
        best = {column: best_rows(bundle, column) for column in one.columns}
        lines = [
            [escaped(row.label), *(_cell(bundle, row, c, row in best[c]) for c in one.columns)]
            for row in rows
        ]
        shared = ", ".join(one.shared.values())
        parts.append(table(["" if shared in one.heads else shared, *one.heads], lines))
    return parts


def _said(bundle: Bundle) -> str:
    n = len(bundle.experiment["seeds"])
    if n == 1:
        return "Test accuracy in %, of one seed"
    return f"Test accuracy in %, mean ± half-width of the 95 % t-interval over {n} seeds"


def _protocol(bundle: Bundle) -> str:
    return f"Protocol: {bundle.protocol}, {SELECTION_RULE_TEXTS[bundle.reported]}."


def _cell(bundle: Bundle, row: Row, column: Column, is_best: bool) -> str:
    found = cell_estimate(bundle, row, column)
    text = short(found) if found else DASH
    return f"**{text}**" if is_best else text


def short(found: Estimate) -> str:
    """'98.4 ± 0.3'."""
    spread = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * found.mean:.1f}{spread}"


def _claims(verdicts: Sequence[Verdict]) -> list[str]:
    """A line a claim: how often it came out how, among the columns of the table."""
    if not verdicts:
        return []
    claims: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        claims.setdefault(verdict.claim, []).append(verdict)
    lines = [[f"`{claim}`", *_counts(found), _range(found)] for claim, found in claims.items()]
    said = (
        "Claims of this experiment, tested on each column: paired t-tests at "
        f"{100 * LEVEL:.0f} % for all {len(verdicts)} comparisons together (Holm)."
    )
    return ["", said, "", table(["claim", *OUTCOMES, "difference in points"], lines).rstrip()]


def _counts(verdicts: Sequence[Verdict]) -> list[str]:
    return [str(sum(v.outcome == outcome for v in verdicts) or DASH) for outcome in OUTCOMES]


def _range(verdicts: Sequence[Verdict]) -> str:
    means = sorted(100 * v.difference.mean for v in verdicts)
    return f"{means[0]:+.1f}" + (f" to {means[-1]:+.1f}" if len(means) > 1 else "")
