"""The page behind a table: every run of every number."""

from __future__ import annotations

import re

from analysis.bundle import Bundle
from analysis.tables.rows import DASH, Row, rows_of, select, students_of
from harness.plan import TEACHER
from harness.results import FORMS


def anchor(bundle: Bundle, row: Row, student: str) -> str:
    """The heading on the page of runs, as GitHub turns it into a link target."""
    return re.sub(r"[^\w\- ]", "", heading(bundle, row, student).lower()).replace(" ", "-")


def heading(bundle: Bundle, row: Row, student: str) -> str:
    if row.stage == TEACHER:
        return "Teacher"
    return f"{row.label}, {student}"


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
    for row in rows_of(bundle):
        for student in students_of(bundle):
            chosen = select(bundle, row, student)
            if chosen.empty or f"## {heading(bundle, row, student)}" in lines:
                continue
            lines += [
                "",
                f"## {heading(bundle, row, student)}",
                "",
                "| seed | last | selected | best_on_test | selected epoch | cell | MLflow run |",
                "|---:|---:|---:|---:|---:|---|---|",
            ]
            for r in chosen.to_dict("records"):
                forms = " | ".join(f"{100 * r[form]:.2f}" for form in FORMS)
                run = f"`{r['mlflow_run_id']}`" if r["mlflow_run_id"] else DASH
                lines.append(
                    f"| {r['seed']} | {forms} | {r['selected_epoch']} of {r['epochs']} | "
                    f"`{r['fingerprint'][:16]}` | {run} |"
                )
    return "\n".join(lines) + "\n"
