"""The table of a bundle in Markdown, with what stands under it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable

from analysis.bundle import Bundle
from analysis.statistics import estimate
from analysis.tables.caption import caption
from analysis.tables.rows import (
    DASH,
    Column,
    Row,
    Table,
    cell_estimate,
    columns_of,
    epochs_of,
    rows_of,
    select,
    tables_of,
)
from analysis.tables.runs import anchors, heading, sections
from harness.errors import UserError
from harness.provenance import UNKNOWN
from harness.results import FORMS, honest, leak

SHOWN = ("row", "source", "protocol")  # of a published row
PRIVATE = 0xE000


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
        for line in ("", f"<details><summary>{summary}</summary>", "", make(bundle), "</details>")
    ]
    return "\n".join([table, *caption(bundle), *details]) + "\n"


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
    for row in rows_of(bundle):
        cells = [epochs_of(bundle, row)]
        for column in columns:
            found = cell_estimate(bundle, row, column)
            target = link(row, column) if found else ""
            text = found.percent() if found else DASH
            cells.append(f"[{text}]({target})" if target else text)
        lines.append(f"| {row.markdown} | " + " | ".join(cells) + " |")
    for published in bundle.published:
        values = [published.get(c.student, "") or DASH for c in columns]
        if any(v != DASH for v in values):
            name, source, protocol = (escaped(published[k]) for k in SHOWN)
            values = [DASH, *map(escaped, values)]
            lines.append(f"| *{name}* ({source}, {protocol}) | " + " | ".join(values) + " |")
    return lines


def escaped(text: str) -> str:
    """Somebody's words for a cell of a Markdown table: shown as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def leak_markdown(bundle: Bundle) -> str:
    """All three accuracies of every number, and the leak: how much choosing the epoch on the test
    set adds to the honest choice (the validation-selected epoch, or the last one)."""
    choice = honest(bundle.reported)
    whose = "student" if bundle.tasks is None else "student, task"
    lines = [
        f"| | {whose} | last | selected | best on test | leak (best on test - {choice}) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row, column in sections(bundle).values():
        chosen = select(bundle, row, column)
        columns = [[number[form] for number in chosen] for form in FORMS]
        columns.append([leak(number, bundle.reported) for number in chosen])
        shown = [found.percent() for c in columns if (found := estimate(c))]
        name = column.part(row) or (column.student if row.by_student else bundle.teacher)
        lines.append(f"| {row.label} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def for_terminal(table: str) -> str:
    """`markdown`'s tables with aligned columns, without links, emphasis and details."""
    # What is escaped waits in a private area of Unicode while the rest is taken apart.
    text = re.sub(r"\\([!-/:-@\[-`{-~])", lambda m: chr(PRIVATE + ord(m[1])), table)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.partition("<details>")[0])
    text = text.replace("*", "")
    shown = []
    for is_table, group in itertools.groupby(text.splitlines(), lambda t: t.startswith("|")):
        lines = list(group)
        shown += _aligned(lines) if is_table else lines
    return re.sub("[\ue000-\ue07f]", lambda m: chr(ord(m[0]) - PRIVATE), "\n".join(shown))


def _aligned(table: list[str]) -> list[str]:
    rows = [line.strip("|").split("|") for line in table]
    cells = [[c.strip() for c in row] for row in rows if not row[0].startswith("---")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]


# Folded under the table: summary -> what makes it.
DETAILS: dict[str, Callable[[Bundle], str]] = {
    "All three accuracies, and the leak of choosing the epoch on the test set": leak_markdown,
}
