"""The table of a bundle in Markdown, with what stands under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from harness.analysis.bundle import Bundle
from harness.analysis.tables.caption import caption
from harness.analysis.tables.comparisons import (
    differences_markdown,
    published_markdown,
    verdicts_markdown,
)
from harness.analysis.tables.rows import (
    DASH,
    Column,
    Row,
    Table,
    best_rows,
    cell_estimate,
    columns_of,
    epochs_of,
    forms_and_leak,
    percent,
    published_lines,
    rows_of,
    tables_of,
)
from harness.analysis.tables.runs import anchors, heading, sections
from harness.analysis.tables.text import escaped
from harness.common.errors import UserError
from harness.common.metrics import unbiased_rule
from harness.common.provenance import UNKNOWN

# What makes other numbers of the same cell: the last digits of sums, and with them whole images.
ONE_EACH = ("device", "processor", "threads", "torch", "commits")


def check_unmixed(bundle: Bundle, allow_mixed: bool) -> None:
    """
    Raises:
        UserError: the cells come from several devices, processors, numbers of threads, versions of
            torch or commits.
    """
    if allow_mixed:
        return
    cells = [c for c in bundle.cells if c["epochs"] > 0]  # an imported one computed nothing
    for column in ONE_EACH:
        counts = Counter(cell[column] for cell in cells)
        several = [v for v in counts if isinstance(v, tuple) and len(v) > 1]
        if len(counts) > 1 or several:
            shown = "; ".join(f"{_text(value)}: {n}" for value, n in counts.most_common())
            raise UserError(
                f"{bundle.name}: cells of different {column} ({shown}); train them again with "
                "`harness run --store NEW`, or pass --mixed to say so under the table"
            )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(value) or UNKNOWN
    return str(value)


def markdown(bundle: Bundle, runs_page: str, allow_mixed: bool = False) -> str:
    """The table with what stands under it.

    Args:
        runs_page: link to `runs_markdown`'s page, relative to where the table stands.

    Raises:
        UserError: the cells come from several devices or commits.
    """
    check_unmixed(bundle, allow_mixed)
    targets = anchors(bundle)
    table = table_markdown(bundle, lambda r, c: f"{runs_page}#{targets[heading(r, c)]}")
    details = [
        line
        for summary, make in DETAILS.items()
        if (text := make(bundle))
        for line in ("", f"<details><summary>{summary}</summary>", "", text, "</details>")
    ]
    verdicts = verdicts_markdown(bundle)
    return (
        "\n".join([table, *caption(bundle), *(["", verdicts] if verdicts else []), *details]) + "\n"
    )


def table_markdown(bundle: Bundle, link: Callable[[Row, Column], str]) -> str:
    """The table alone, ours and the published rows; of many tasks several, each with a title.

    Args:
        link: row, column -> where the number leads to; "" for no link.
    """
    tables = tables_of(columns_of(bundle))
    texts = []
    for table in tables:
        lines = [f"**{escaped(table.title)}**", ""] if len(tables) > 1 else []
        texts.append("\n".join([*lines, *_lines(bundle, table, link)]) + "\n")
    return "\n".join(texts)


def _lines(bundle: Bundle, table: Table, link: Callable[[Row, Column], str]) -> list[str]:
    columns = table.columns
    lines = [
        "| | epochs | " + " | ".join(table.heads) + " |",
        "|---|---:|" + "---:|" * len(columns),
    ]
    best = {column: best_rows(bundle, column) for column in columns}
    for row in rows_of(bundle):
        cells = [epochs_of(bundle, row)]
        for column in columns:
            found = cell_estimate(bundle, row, column)
            target = link(row, column) if found else ""
            text = f"**{percent(found)}**" if row in best[column] else percent(found)
            cells.append(f"[{text}]({target})" if target else text)
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    for said, values in published_lines(bundle, columns):
        name, source, protocol = map(escaped, said)
        cells = [DASH, *map(escaped, values)]
        lines.append(f"| *{name}* ({source}, {protocol}) | " + " | ".join(cells) + " |")
    return lines


def leak_markdown(bundle: Bundle) -> str:
    """All three accuracies of every number, and the leak: how much choosing the epoch on the test
    set adds to the honest choice (the validation-selected epoch, or the last one)."""
    choice = unbiased_rule(bundle.reported)
    whose = "student" if bundle.tasks is None else "student, task"
    lines = [
        f"| | {whose} | last | selected | best on test | leak (best on test - {choice}) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row, column in sections(bundle).values():
        shown = map(percent, forms_and_leak(bundle, row, column))
        name = column.part(row) or (column.student if row.by_student else bundle.teacher)
        lines.append(f"| {row.label} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


# Folded under the table: summary -> what makes it; nothing for a bundle that has nothing of it.
DETAILS: dict[str, Callable[[Bundle], str]] = {
    "Differences from the plain student, paired by seed": differences_markdown,
    "Beside the published numbers": published_markdown,
    "All three accuracies, and the leak of choosing the epoch on the test set": leak_markdown,
}
