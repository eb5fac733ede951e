"""A bundle as one HTML page that needs nothing else: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from analysis.bundle import Bundle
from analysis.statistics import Estimate, estimate
from analysis.tables.caption import caption, tuning_budget
from analysis.tables.markdown import SHOWN, best_of, is_trained_student
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
from analysis.verdicts import differences_of, verdicts_of
from harness.results import FORMS, honest, leak

Json = dict[str, Any]


def html(bundle: Bundle, figures: Sequence[Path]) -> str:
    """The page; the same bundle and figures give the same text.

    figures: PNG files, as `draw_all` makes them.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    shown = [
        {"name": p.stem, "data": base64.b64encode(p.read_bytes()).decode("ascii")} for p in figures
    ]
    tuning = tuning_budget(bundle.experiment)
    # Tuning has a section of its own, and so has the command.
    notes = [line for line in caption(bundle) if line not in tuning][:-1]
    return environment.get_template("report.html").render(
        name=bundle.name,
        description=bundle.experiment.get("description", ""),
        verdicts=verdicts_of(bundle),
        tables=[_table(bundle, table) for table in tables_of(columns_of(bundle))],
        differences=differences_of(bundle),
        figures=[f for f in shown if not f["name"].startswith("curves")],
        curves=[f for f in shown if f["name"].startswith("curves")],
        honest=honest(bundle.reported),
        leaks=_leaks(bundle),
        tuning=tuning or ["No settings of this experiment were tuned."],
        notes=notes,
        command=bundle.command,
        runs=_runs(bundle),
    )


def inline(text: str) -> Markup:
    """Our captions' Markdown, `code` and *emphasis* alone; all else is escaped."""
    safe = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", safe))


def _table(bundle: Bundle, table: Table) -> Json:
    targets = anchors(bundle)
    best = {column: best_of(bundle, column) for column in table.columns}

    def cell(row: Row, column: Column) -> Json | None:
        found = cell_estimate(bundle, row, column)
        if found is None:
            return None
        numbers = select(bundle, row, column)
        return {
            "text": found.percent(),
            "best": is_trained_student(row) and found.mean == best[column],
            "target": targets[heading(row, column)],
            "seeds": ", ".join(str(number["seed"]) for number in numbers),
        }

    rows = [
        {
            "label": row.label,
            "epochs": epochs_of(bundle, row),
            "cells": [cell(row, column) for column in table.columns],
        }
        for row in rows_of(bundle)
    ]
    published = []
    for line in bundle.published:
        values = [line.get(column.student, "") or DASH for column in table.columns]
        if any(value != DASH for value in values):
            name, source, protocol = (line[key] for key in SHOWN)
            published.append({"label": f"{name} ({source}, {protocol})", "cells": values})
    return {"title": table.title, "heads": table.heads, "rows": rows, "published": published}


def _leaks(bundle: Bundle) -> list[Json]:
    found = []
    for title, (row, column) in sections(bundle).items():
        numbers = select(bundle, row, column)
        columns = [[number[form] for number in numbers] for form in FORMS]
        columns.append([leak(number, bundle.reported) for number in numbers])
        found.append({"label": title, "cells": [_percent(estimate(values)) for values in columns]})
    return found


def _percent(found: Estimate | None) -> str:
    return DASH if found is None else found.percent()


def _runs(bundle: Bundle) -> list[Json]:
    targets = anchors(bundle)
    return [
        {"title": title, "target": targets[title], "numbers": select(bundle, row, column)}
        for title, (row, column) in sections(bundle).items()
    ]
