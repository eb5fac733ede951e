"""Tables for other programs: CSV, and LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
import re

from harness.analysis.tables.result_table import Cell, ResultTable
from harness.common.names import spreadsheet_text

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def csv_text(table: ResultTable) -> str:
    """Return the table as CSV; a missing value is empty."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(map(spreadsheet_text, table.head))
    lines.writerows(map(_csv_cell, row) for row in table.rows)
    return file.getvalue()


def _csv_cell(cell: Cell) -> str:
    if cell.value is None:
        return ""
    return cell.text if isinstance(cell.value, float) else spreadsheet_text(cell.text)


def latex_escaped(text: str) -> str:
    r"""Return somebody's words so that LaTeX shows them as they are, on one line."""
    return re.sub(r"[\\~^&%$#_{}]", lambda m: LATEX[m[0]], " ".join(text.split()))


def latex_text(table: ResultTable, comment: str) -> str:
    r"""Return the table as a `tabular` for a document with \usepackage{booktabs}."""
    align = "".join("l" if table.has_words(i) else "r" for i in range(len(table.head)))
    return "\n".join(
        [
            f"% {comment}",
            f"\\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(map(latex_escaped, table.head)) + r" \\",
            r"\midrule",
            *(" & ".join(map(_latex_cell, row)) + r" \\" for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    if not isinstance(cell.value, float):
        return latex_escaped(cell.text + cell.note)
    mean = f"{cell.value:.{cell.digits}f}"
    mean = f"\\mathbf{{{mean}}}" if cell.bold else mean
    spread = "" if cell.half_width is None else f" \\pm {cell.half_width:.{cell.digits}f}"
    return f"${mean}{spread}$" + ("" if cell.n is None else f" ({cell.n})")
