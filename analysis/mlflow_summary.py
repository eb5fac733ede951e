"""What MLflow shows of a finished grid: the result table as its run's description, and files."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from harness.analysis.bundle import Bundle, export, read_bundle
from harness.analysis.figures import draw_all
from harness.analysis.report.page import html
from harness.analysis.tables.caption import caption
from harness.analysis.tables.comparisons import counted, verdicts_markdown
from harness.analysis.tables.csv_and_latex import csv_text, tex_text
from harness.analysis.tables.markdown import table_markdown
from harness.analysis.tables.rows import Column, Row, cell_estimate, columns_of, final_rows
from harness.analysis.tables.runs import runs_markdown
from harness.analysis.verdicts import Verdict, verdicts_of
from harness.methods import SUPERVISED, get_method
from harness.plan import TEACHER, Plan, role
from harness.track.client import mlflow_name
from harness.track.grid_run import GridSummary
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
    if (row.stage, SUPERVISED.kind) in {(s.name, s.kind) for s in get_method(row.method).stages}:
        return {"roles": f"%{role(row.stage, row.method)}%"} | found
    return {"stage": row.stage, "method": row.method} | found


def build_summary(
    plan: Plan,
    root: Path,
    file: Path,
    assignments: list[str],
    experiment_id: str,
    folder: Path,
) -> GridSummary:
    """The table with its caption and verdicts; files in `folder`: the bundle, the page of runs, the
    report, the numbers as CSV and LaTeX, the figures; a tag that counts the verdicts, and one for
    each; the final numbers as metrics.

    Args:
        root: the store. file, assignments: the experiment's, for the command under the table.
        experiment_id: MLflow's. Each number of the table leads to its runs there.
    """
    path = folder / f"{plan.experiment.name}.jsonl"
    path.write_text(export(plan, root, file, assignments), encoding="utf-8")
    bundle = read_bundle(path)
    figures = draw_all(bundle, folder)
    texts = {
        ".md": runs_markdown(bundle),
        ".html": html(bundle, figures),
        ".csv": csv_text(bundle),
        ".tex": tex_text(bundle),
    }
    for suffix, content in texts.items():
        path.with_suffix(suffix).write_text(content, encoding="utf-8")

    def link(row: Row, column: Column) -> str:
        return runs_page(experiment_id, conditions(row, column))

    # The table first: MLflow folds a long description.
    said = [*caption(bundle), verdicts_markdown(bundle), plan.experiment.description]
    tail = "\n\n".join(["", *filter(None, said)])
    text = unbroken(table_markdown(bundle, link)) + tail
    if len(text) > MAX_CHARACTERS:
        text = unbroken(table_markdown(bundle, lambda row, column: "")) + tail
    files = [path, *map(path.with_suffix, texts), *figures]
    tags, metrics = tags_of(verdicts_of(bundle)), metrics_of(bundle)
    return GridSummary(text[:MAX_CHARACTERS], files, tags, metrics)


def metrics_of(bundle: Bundle) -> dict[str, float]:
    """ "mean/kd wrn-10-1" and "half_width/kd wrn-10-1": each final number of the table, a fraction,
    with half its 95 % t-interval."""
    found: dict[str, float] = {}
    for row, column in itertools.product(final_rows(bundle), columns_of(bundle)):
        name = mlflow_name(f"{row.method} {column.part(row)}".strip())
        if mean := cell_estimate(bundle, row, column):
            found[f"mean/{name}"] = mean.mean
            if mean.half_width is not None:
                found[f"half_width/{name}"] = mean.half_width
    return found


def tags_of(verdicts: list[Verdict]) -> dict[str, str]:
    """`verdicts`: how many of each outcome; `verdict kd > plain`: its outcome by column."""
    tags: dict[str, list[str]] = {}
    for verdict in verdicts:
        where = f"{verdict.column}: " if verdict.column else ""
        name = mlflow_name(f"verdict {verdict.claim.replace('>', 'above')}")
        tags.setdefault(name, []).append(f"{where}{verdict.outcome}")
    counts = {"verdicts": counted(verdicts)} if verdicts else {}
    return counts | {name: "; ".join(found)[:MAX_CHARACTERS] for name, found in tags.items()}
