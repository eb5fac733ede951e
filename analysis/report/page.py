"""A bundle as one HTML page that needs nothing else: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from harness.analysis.bundle import Bundle
from harness.analysis.figures import drawable
from harness.analysis.tables.caption import (
    commits_said,
    data_said,
    how_to_read,
    made_with,
    protocol_said,
    tuning_budget,
)
from harness.analysis.tables.comparisons import counted
from harness.analysis.tables.rows import (
    Column,
    Row,
    Table,
    best_rows,
    cell_estimate,
    columns_of,
    epochs_of,
    forms_and_leak,
    percent,
    points,
    published_lines,
    rows_of,
    select,
    tables_of,
)
from harness.analysis.tables.runs import anchors, heading, sections
from harness.analysis.verdicts import LEVEL, beside_published, differences_of, p_said, verdicts_of
from harness.common.metrics import SELECTION_RULES, unbiased_rule
from harness.common.provenance import UNKNOWN

TEMPLATE = "report.html"
CURVES = "curves"  # how the names of their figures begin

Values = dict[str, Any]


def html(bundle: Bundle, figures: Sequence[Path]) -> str:
    """The page; the same bundle and figures give the same text.

    Args:
        figures: PNG files, as `analysis.figures.draw_all` returns them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"inline": inline, "percent": percent, "points": points, "p": p_said}
    return environment.get_template(TEMPLATE).render(contents(bundle), figures=_inside(figures))


def contents(bundle: Bundle) -> Values:
    """What the template shows, but for the figures."""
    verdicts, differences = verdicts_of(bundle), differences_of(bundle)
    _, left_out = drawable(bundle)
    reasons = dict.fromkeys(left_out.values())
    return {
        "name": bundle.name,
        "description": bundle.experiment.get("description") or "",
        "verdicts": verdicts,
        "counts": counted(verdicts),
        "level": f"{100 * LEVEL:.0f} %",
        "tables": [_table(bundle, table) for table in tables_of(columns_of(bundle))],
        "how_to_read": how_to_read(bundle),
        "baseline": differences[0].baseline if differences else "",
        "difference_columns": list(dict.fromkeys(d.column for d in differences)),
        "difference_rows": list(dict.fromkeys(d.row for d in differences)),
        "differences": {(d.row, d.column): d.difference for d in differences},
        "beside": beside_published(bundle),
        "left_out": {why: [n for n, w in left_out.items() if w == why] for why in reasons},
        "honest": unbiased_rule(bundle.reported),
        "leaks": _leaks(bundle),
        "tuning": tuning_budget(bundle.experiment),
        "environment": environment_of(bundle),
        "commands": commands_of(bundle),
        "forms": SELECTION_RULES,
        "runs": _runs(bundle),
    }


def inline(text: str) -> Markup:
    """Our captions' Markdown, `code` and *emphasis* alone; all else is escaped."""
    safe = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", safe))


def environment_of(bundle: Bundle) -> dict[str, str]:
    """What the numbers were made from and with; every value that occurs among the cells."""
    made = {name: ", ".join(values) or UNKNOWN for name, values in made_with(bundle).items()}
    seen = {json.loads(cell["data"])["digest"] for cell in bundle.cells}
    # Each task has other images: the digest of what they are taken from says more.
    digests = {cell["whole_digest"] for cell in bundle.cells} - {None} if bundle.tasks else seen
    return {
        "Data": data_said(bundle),
        "Digest of the data": ", ".join(f"`{digest}`" for digest in sorted(digests)) or UNKNOWN,
        "Protocol": protocol_said(bundle).strip(),
        "Seeds": ", ".join(map(str, bundle.experiment["seeds"])),
        "Device": made["device"],
        "Processor": made["processor"],
        "Threads of a cell": made["threads"],
        "torch": made["torch"],
        "Commits": commits_said(bundle),
        "Cells": str(len(bundle.cells)),
    }


def commands_of(bundle: Bundle) -> list[str]:
    """To train the cells, to compare them with the committed numbers, and to make this page."""
    return [shlex.join(bundle.command_of(what)) for what in ("run", "verdicts", "report")]


def _table(bundle: Bundle, table: Table) -> Values:
    targets = anchors(bundle)
    best = {column: best_rows(bundle, column) for column in table.columns}

    def cell(row: Row, column: Column) -> Values | None:
        found = cell_estimate(bundle, row, column)
        if found is None:
            return None
        return {
            "text": found.percent(),
            "best": row in best[column],
            "target": targets[heading(row, column)],
        }

    rows = [
        {
            "label": row.label,
            "epochs": epochs_of(bundle, row),
            "cells": [cell(row, column) for column in table.columns],
        }
        for row in rows_of(bundle)
    ]
    published = [
        {"label": f"{name} ({source}, {protocol})", "cells": values}
        for (name, source, protocol), values in published_lines(bundle, table.columns)
    ]
    return {"title": table.title, "heads": table.heads, "rows": rows, "published": published}


def _leaks(bundle: Bundle) -> list[Values]:
    return [
        {"label": title, "cells": map(percent, forms_and_leak(bundle, row, column))}
        for title, (row, column) in sections(bundle).items()
    ]


def _runs(bundle: Bundle) -> list[Values]:
    targets = anchors(bundle)
    return [
        {"title": title, "target": targets[title], "numbers": select(bundle, row, column)}
        for title, (row, column) in sections(bundle).items()
    ]


def _inside(figures: Sequence[Path]) -> dict[bool, list[dict[str, str]]]:
    """Is it one of curves? -> the figures."""
    found: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    for path in figures:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        found[path.stem.startswith(CURVES)].append({"name": path.stem, "data": data})
    return found
