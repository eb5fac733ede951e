"""What MLflow shows of a finished grid: the result table as its run's description, and files."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.bundle import export, read_bundle
from analysis.figures import draw_all
from analysis.tables.caption import caption
from analysis.tables.markdown import table_markdown
from analysis.tables.rows import Column, Row
from analysis.tables.runs import runs_markdown
from harness.methods import SUPERVISED, find
from harness.plan import TEACHER, Plan, role
from harness.track.saved_views import runs_page

MAX_CHARACTERS = 8000  # of a tag's value in MLflow


def unbroken(table: str) -> str:
    """No line ends within a number."""
    return re.sub(r" ± (\S+) \(", "\u00a0±\u00a0\\1\u00a0(", table)


def conditions(row: Row, column: Column) -> dict[str, str]:
    """Tags of the runs behind a number: "%" stands for any characters."""
    dimensions = column.task.dimensions if row.by_task and column.task else {}
    found = {"student": column.student} if row.by_student else {}
    found |= {name: str(value) for name, value in dimensions.items()}
    # A supervised cell may be several stages', of which its tags stage and method say the first.
    if row.method == TEACHER:
        return {"roles": f"%{TEACHER}"} | found  # the last of a sorted list, and no teacher_ncm
    if (row.stage, SUPERVISED.kind) in {(s.name, s.kind) for s in find(row.method).stages}:
        return {"roles": f"%{role(row.stage, row.method)}%"} | found
    return {"stage": row.stage, "method": row.method} | found


def grid_page(
    plan: Plan,
    root: Path,
    file: Path,
    assignments: list[str],
    experiment_id: str,
    folder: Path,
) -> tuple[str, list[Path]]:
    """(Markdown, files written to `folder`: the bundle, the page of runs, the figures).

    Args:
        root: the store. file, assignments: the experiment's, for the command under the table.
        experiment_id: MLflow's. Each number of the table leads to its runs there.
    """
    path = folder / f"{plan.experiment.name}.jsonl"
    path.write_text(export(plan, root, file, assignments), encoding="utf-8")
    bundle = read_bundle(path)
    runs = path.with_suffix(".md")
    runs.write_text(runs_markdown(bundle), encoding="utf-8")

    def link(row: Row, column: Column) -> str:
        return runs_page(experiment_id, conditions(row, column))

    # The table first: MLflow folds a long description.
    tail = "\n\n".join(["", *caption(bundle), plan.experiment.description])
    text = unbroken(table_markdown(bundle, link)) + tail
    if len(text) > MAX_CHARACTERS:
        text = unbroken(table_markdown(bundle, lambda row, column: "")) + tail
    return text[:MAX_CHARACTERS], [path, runs, *draw_all(bundle, folder)]
