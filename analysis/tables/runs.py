"""The page behind a table: every run of every number."""

from __future__ import annotations

import itertools
import re

from harness.analysis.bundle import Bundle
from harness.analysis.tables.rows import DASH, Column, Row, columns_of, rows_of, select
from harness.common.metrics import SELECTION_RULES


def heading(row: Row, column: Column) -> str:
    part = column.part(row)
    return f"{row.label}, {part}" if part else row.label


def sections(bundle: Bundle) -> dict[str, tuple[Row, Column]]:
    """Heading -> what stands below it, of every number once, in the page's order."""
    found: dict[str, tuple[Row, Column]] = {}
    columns = columns_of(bundle)
    for row in rows_of(bundle):
        for column in columns:
            if select(bundle, row, column):
                found.setdefault(heading(row, column), (row, column))
    return found


def anchors(bundle: Bundle) -> dict[str, str]:
    """Heading -> link target, as GitHub makes it: of equal ones, as of "2.5" and "25", the later
    get a number."""
    found: dict[str, str] = {}
    for title in sections(bundle):
        plain = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        taken = {*found.values()}
        numbered = (f"{plain}-{n}" if n else plain for n in itertools.count())
        found[title] = next(target for target in numbered if target not in taken)
    return found


def runs_markdown(bundle: Bundle) -> str:
    """The page behind the numbers: every seed of every table cell, with all three accuracies."""
    lines = [
        f"# Runs behind the table of {bundle.name}",
        "",
        f"Made by `harness tables` from [{bundle.path.name}]({bundle.path.name}); the table shows "
        f"the column **{bundle.reported}**. *best_on_test* is chosen by looking at the test set: "
        "it measures how much that inflates a number, and is no result. A cell's directory is "
        "`runs/CELL` of the store that trained it; a run id is MLflow's there.",
    ]
    for title, (row, column) in sections(bundle).items():
        lines += [
            "",
            f"## {title}",
            "",
            "| seed | last | selected | best_on_test | selected epoch | cell | MLflow run |",
            "|---:|---:|---:|---:|---:|---|---|",
        ]
        for r in select(bundle, row, column):
            forms = " | ".join(f"{100 * r[form]:.2f}" for form in SELECTION_RULES)
            run = f"`{r['mlflow_run_id']}`" if r["mlflow_run_id"] else DASH
            lines.append(
                f"| {r['seed']} | {forms} | {r['selected_epoch']} of {r['epochs']} | "
                f"`{r['fingerprint'][:16]}` | {run} |"
            )
    return "\n".join(lines) + "\n"
