"""Accuracy by class, and confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import estimate
from harness.analysis.tables.result_table import Cell, ResultTable
from harness.analysis.tables.rows import Column, Row, columns_of, final_rows, select

CAPTION = (
    "Accuracy on the test images of each class in %, mean ± half-width of the 95 % t-interval over "
    "seeds; the images are the same for all methods of a column."
)


def confusions_of(bundle: Bundle, row: Row, column: Column) -> list[np.ndarray]:
    """Return one matrix per run: the number of test images by class and predicted class, (C, C).

    Returns:
        Nothing if a run's predictions are not known, as after an imported teacher.
    """
    runs = [bundle.confusions.get(n.cell.fingerprint) for n in select(bundle, row, column)]
    known = [triples for triples in runs if triples]
    if not known or len(known) < len(runs):
        return []
    largest = max(max(label, guess) for triples in known for label, guess, _ in triples)
    size = max(len(bundle.class_names or ()), largest + 1)
    matrices = []
    for triples in known:
        matrix = np.zeros((size, size), dtype=int)
        for label, guess, n in triples:
            matrix[label, guess] += n
        matrices.append(matrix)
    return matrices


def class_tables(bundle: Bundle, names: Sequence[str] | None = None) -> list[ResultTable]:
    """Return the accuracy by class of the teacher and of every method, a table per column.

    Args:
        bundle: The results.
        names: The names of the classes; by default those of the bundle, or else numbers.
    """
    tables = []
    columns = columns_of(bundle)
    for column in columns:
        found = {row: confusions_of(bundle, row, column) for row in final_rows(bundle)}
        # What learns the teacher's task has other classes than a student, so it has no column.
        found = {row: m for row, m in found.items() if m and (row.by_task or not bundle.tasks)}
        if not found:
            continue
        images = next(iter(found.values()))[0].sum(1)
        rows = []
        for k in np.flatnonzero(images).tolist():
            shares = ([m[k, k] / max(m[k].sum(), 1) for m in found[row]] for row in found)
            cells = [Cell.percent(estimate([float(s) for s in share])) for share in shares]
            rows.append([Cell(name_of(bundle, k, names)), Cell(int(images[k])), *cells])
        head = ["class", "images", *(row.label for row in found)]
        title = column.label if len(columns) > 1 else ""
        tables.append(ResultTable(head, rows, title=title).compact())
    return tables


def confusion_table(
    bundle: Bundle, row: Row, column: Column, names: Sequence[str] | None = None
) -> ResultTable | None:
    """Return the confusion matrix of a method, summed over seeds; None if it is not known.

    A line is a class, a column the predicted one.
    """
    matrices = confusions_of(bundle, row, column)
    if not matrices:
        return None
    total = np.sum(matrices, axis=0)
    labels = [name_of(bundle, k, names) for k in range(len(total))]
    rows = [
        [Cell(label), *(Cell(int(n), bold=i == k) for k, n in enumerate(line))]
        for i, (label, line) in enumerate(zip(labels, total, strict=True))
    ]
    return ResultTable(["class", *labels], rows, title=column.part(row))


def name_of(bundle: Bundle, k: int, names: Sequence[str] | None) -> str:
    """Return the name of a class, or else its number."""
    known = names or bundle.class_names or ()
    return known[k] if k < len(known) else str(k)
