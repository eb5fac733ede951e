"""The summary of a finished grid in MLflow: the result table as description, and files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.export import export
from harness.analysis.figures import CAPTIONS, draw_all
from harness.analysis.report.page import html
from harness.analysis.tables.accuracy import final_tables
from harness.analysis.tables.comparisons import claims_blocks, count_outcomes
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.pages import CURVES, curve_files, result_files, table_blocks
from harness.analysis.tables.result_table import Block, Cell
from harness.analysis.tables.rows import (
    Column,
    Row,
    cell_estimate,
    columns_of,
    final_rows,
    summary_rows,
)
from harness.analysis.verdicts import Verdict, verdicts_of
from harness.methods import SUPERVISED, get_method
from harness.plan import TEACHER, Plan, display_role
from harness.track.client import mlflow_name
from harness.track.grid_run import RESULT, GridSummary
from harness.track.saved_views import runs_page

MOST = 8000  # of a tag's value in MLflow


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


def line_conditions(row: Row, column: Column) -> dict[str, str]:
    """Return the tags of the runs behind a whole line of a table."""
    return {k: v for k, v in conditions(row, column).items() if k in ("roles", "stage", "method")}


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

    text = describe(bundle, experiment_id)
    folders = [folder / CURVES] if curves else []
    files = [path, *map(path.with_suffix, texts), *figures, folder / CAPTIONS, *folders]
    tags, metrics = tags_of(verdicts_of(bundle)), metrics_of(bundle)
    return GridSummary(text, files, tags, metrics)


def describe(bundle: Bundle, experiment_id: str) -> str:
    """Return the description of a grid's run, in the fullest form that fits into a tag."""
    return next(text for text in _descriptions(bundle, experiment_id) if len(text) <= MOST)


def _descriptions(bundle: Bundle, experiment_id: str) -> Iterator[str]:
    """Yield the description in ever shorter forms.

    These are all tables with their caption and the verdicts; the final numbers with the claims; the
    numbers alone; with one address per line in place of one per number; with none; no numbers.
    """

    def link(row: Row, column: Column) -> str:
        return runs_page(experiment_id, conditions(row, column))

    # The table comes first: MLflow folds a long description.
    own: list[Block] = [str(text)] if (text := bundle.experiment.get("description")) else []
    where = f"Everything measured: `{RESULT}/{bundle.name}.md` and `.html` under *Artifacts*."
    numbers, plain = final_tables(bundle, link), final_tables(bundle)
    yield markdown([*table_blocks(bundle, link), *own], unbroken=True)
    final: list[Block] = [*numbers, f"Each number leads to its runs. {where}"]
    yield markdown([*final, *claims_blocks(bundle, None), *own], unbroken=True)
    yield markdown([*final, *own], unbroken=True)
    labels = [
        Cell(row.label, link=runs_page(experiment_id, line_conditions(row, column)))
        for row in summary_rows(bundle)
        for column in columns_of(bundle)[:1]
    ]
    lines = [
        [[label, *cells] for label, (_, *cells) in zip(labels, table.rows, strict=True)]
        for table in plain
    ]
    linked = [replace(table, rows=rows) for table, rows in zip(plain, lines, strict=True)]
    yield markdown([*linked, f"Each line leads to its runs. {where}", *own], unbroken=True)
    yield markdown([*plain, where], unbroken=True)
    yield where


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
    return counts | {name: "; ".join(outcomes)[:MOST] for name, outcomes in tags.items()}
