"""The summary of a finished grid in MLflow: the result table as description, and files."""

from __future__ import annotations

import itertools
from pathlib import Path

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.export import export
from harness.analysis.figures import draw_all
from harness.analysis.report.page import html
from harness.analysis.tables.comparisons import count_outcomes
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.pages import CURVES, curve_files, result_files, table_blocks
from harness.analysis.tables.rows import Column, Row, cell_estimate, columns_of, final_rows
from harness.analysis.verdicts import Verdict, verdicts_of
from harness.methods import SUPERVISED, get_method
from harness.plan import TEACHER, Plan, display_role
from harness.track.client import mlflow_name
from harness.track.grid_run import GridSummary
from harness.track.saved_views import runs_page

MAX_CHARACTERS = 8000  # of a tag's value in MLflow


def conditions(row: Row, column: Column) -> dict[str, str]:
    """Return the tags of the runs behind a number; "%" stands for any characters."""
    dimensions = column.task.dimensions if row.by_task and column.task else {}
    tags = {"student": column.student} if row.by_student else {}
    if row.by_teacher and column.teacher:
        tags["teacher"] = column.teacher
    tags |= {name: str(value) for name, value in dimensions.items()}
    # A supervised cell may be several stages', of which its tags stage and method say the first.
    if row.method == TEACHER:
        return {"roles": f"%{TEACHER}"} | tags  # the last of a sorted list, and no teacher_ncm
    if (row.stage, SUPERVISED.kind) in {(s.name, s.kind) for s in get_method(row.method).stages}:
        return {"roles": f"%{display_role(row.stage, row.method)}%"} | tags
    return {"stage": row.stage, "method": row.method} | tags


def build_summary(
    plan: Plan,
    root: Path,
    file: Path,
    assignments: list[str],
    experiment_id: str,
    folder: Path,
) -> GridSummary:
    """Return the summary of a finished grid for MLflow, and write its files into `folder`.

    The description has the table with its caption and the verdicts; the files are the bundle, the
    results page and its curves, the report, the numbers as CSV and LaTeX, and the figures. Tags
    have the verdicts, metrics the final numbers.

    Args:
        plan: A plan whose cells are finished.
        root: The store.
        file: The experiment's, for the command below the table.
        assignments: Those of `--set`.
        experiment_id: MLflow's; each number of the table leads to its runs there.
        folder: An empty folder.
    """
    path = folder / f"{plan.experiment.name}.jsonl"
    path.write_text(export(plan, root, file, assignments), encoding="utf-8")
    bundle = read_bundle(path)
    figures = draw_all(bundle, folder)
    texts = result_files(bundle) | {".html": html(bundle, figures)}
    for suffix, content in texts.items():
        path.with_suffix(suffix).write_text(content, encoding="utf-8")
    curves = curve_files(bundle)
    for curve, content in curves.items():
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text(content, encoding="utf-8")

    def link(row: Row, column: Column) -> str:
        return runs_page(experiment_id, conditions(row, column))

    # The table comes first: MLflow folds a long description.
    description = [plan.experiment.description] if plan.experiment.description else []
    text = markdown([*table_blocks(bundle, link), *description], unbroken=True)
    if len(text) > MAX_CHARACTERS:
        text = markdown([*table_blocks(bundle), *description], unbroken=True)
    folders = [folder / CURVES] if curves else []
    files = [path, *map(path.with_suffix, texts), *figures, *folders]
    tags, metrics = tags_of(verdicts_of(bundle)), metrics_of(bundle)
    return GridSummary(text[:MAX_CHARACTERS], files, tags, metrics)


def metrics_of(bundle: Bundle) -> dict[str, float]:
    """Return each final number and half its 95 % t-interval, as fractions.

    Their names are "mean/kd wrn-10-1" and "half_width/kd wrn-10-1".
    """
    metrics: dict[str, float] = {}
    for row, column in itertools.product(final_rows(bundle), columns_of(bundle)):
        name = mlflow_name(f"{row.method} {column.part(row)}".strip())
        if mean := cell_estimate(bundle, row, column):
            metrics[f"mean/{name}"] = mean.mean
            if mean.half_width is not None:
                metrics[f"half_width/{name}"] = mean.half_width
    return metrics


def tags_of(verdicts: list[Verdict]) -> dict[str, str]:
    """Return the tag `verdicts` that counts outcomes, and one tag per claim with its outcomes."""
    tags: dict[str, list[str]] = {}
    for verdict in verdicts:
        where = f"{verdict.column}: " if verdict.column else ""
        name = mlflow_name(f"verdict {verdict.claim.replace('>', 'above')}")
        tags.setdefault(name, []).append(f"{where}{verdict.outcome}")
    counts = {"verdicts": count_outcomes(verdicts)} if verdicts else {}
    return counts | {name: "; ".join(outcomes)[:MAX_CHARACTERS] for name, outcomes in tags.items()}
