"""The numbers of a bundle for other programs: CSV, and a LaTeX table (booktabs)."""

from __future__ import annotations

import csv
import io
import re

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import Estimate
from harness.analysis.tables.rows import (
    Column,
    best_rows,
    cell_estimate,
    columns_of,
    epochs_of,
    forms_and_leak,
    rows_of,
    select,
    tables_of,
)
from harness.analysis.tables.runs import sections
from harness.common.metrics import SELECTION_RULES

HEAD = (
    *("row", "method", "stage", "student", "overlap", "shots", "result"),
    *("n", "mean", "half_width", *SELECTION_RULES),
)
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def csv_text(bundle: Bundle) -> str:
    """One line a number, in per cent: mean and half width of its 95 % t-interval as reported, then
    the means of the three forms. What does not apply is empty."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(HEAD)
    for row, column in sections(bundle).values():
        numbers, found = select(bundle, row, column), cell_estimate(bundle, row, column)
        assert found is not None
        student = column.student if row.by_student else bundle.teacher
        of_task = row.by_task and column.task is not None
        task = [numbers[0][name] for name in ("overlap", "shots")] if of_task else ["", ""]
        *forms, _ = forms_and_leak(bundle, row, column)
        lines.writerow(
            [row.label, row.method, row.stage, student, *task, row.result, found.n]
            + [_percent(found.mean), _percent(found.half_width)]
            + [_percent(form.mean if form else None) for form in forms]
        )
    return file.getvalue()


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.4f}"


def latex_escaped(text: str) -> str:
    r"""Somebody's words in LaTeX: shown as they are, on one line."""
    return re.sub(r"[\\~^&%$#_{}]", lambda m: LATEX[m[0]], " ".join(text.split()))


def tex_text(bundle: Bundle) -> str:
    """A `tabular` a table, for a page with \\usepackage{booktabs}; the best of a column is bold."""
    return "\n".join(
        _tabular(bundle, table.title, table.heads, table.columns)
        for table in tables_of(columns_of(bundle))
    )


def _tabular(bundle: Bundle, title: str, heads: list[str], columns: list[Column]) -> str:
    best = {column: best_rows(bundle, column) for column in columns}
    lines = [
        f"% {latex_escaped(bundle.name)}: {latex_escaped(title)}; mean and 95 % t-interval "
        "over seeds (their number), in per cent",
        f"\\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}",
        r"\toprule",
        " & ".join(["", "epochs", *map(latex_escaped, heads)]) + r" \\",
        r"\midrule",
    ]
    for row in rows_of(bundle):
        cells = [latex_escaped(row.label), latex_escaped(epochs_of(bundle, row))]
        for column in columns:
            found = cell_estimate(bundle, row, column)
            cells.append(_number(found, row in best[column]))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _number(found: Estimate | None, is_best: bool) -> str:
    if found is None:
        return "--"
    spread = "" if found.half_width is None else f" \\pm {100 * found.half_width:.2f}"
    mean = f"{100 * found.mean:.2f}"
    number = f"\\mathbf{{{mean}}}" if is_best else mean
    return f"${number}{spread}$ ({found.n})"
