"""Confusion matrix of one student."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    MANY_TASKS,
    OLD_BUNDLE,
    Kind,
    Texts,
    caption_of,
    data_text,
    has_many_tasks,
    labels_of,
    protocol_text,
    readable,
    rows_in_stage,
    seeds_text,
    write_title,
)
from harness.analysis.tables.classes import confusions_of
from harness.analysis.tables.rows import Column, Row, columns_of

OLD_CELLS = (
    "cells were trained before predictions were kept; `harness run FILE --store NEW` and "
    "`harness tables FILE --store NEW` make them"
)
MOST_NUMBERED = 20  # a matrix of more classes has neither names nor numbers
LONGEST_NAME = 16


@dataclass(frozen=True)
class ConfusionMatrix:
    """The confusion matrix of one student.

    Attributes:
        method: label of the method.
        student: label of the student.
        counts: (C, C), test images of the row's class that were predicted as the column's, summed
            over seeds.
        n: number of seeds.
    """

    method: str
    student: str
    counts: np.ndarray
    n: int


def chosen_for_confusion(bundle: Bundle) -> tuple[Row, Column]:
    """Return the student to show: of the first method with several stages, else of the last method.

    It is the last student in the file. Its place decides, so that no accuracy does.
    """
    rows = rows_in_stage(bundle, LAST)
    staged = [r for r in rows if r.number > 1]
    return (staged or rows[::-1])[0], columns_of(bundle)[-1]


def confusion_matrix(bundle: Bundle) -> ConfusionMatrix | None:
    """Return the matrix summed over seeds; None if a seed has no predictions."""
    row, column = chosen_for_confusion(bundle)
    per_seed = confusions_of(bundle, row, column)
    if not per_seed:
        return None
    counts = np.sum(per_seed, axis=0)
    return ConfusionMatrix(labels_of(bundle)[row.method], column.networks, counts, len(per_seed))


def row_percent(counts: np.ndarray) -> np.ndarray:
    """Return (C, C) counts in % of their row; a class without test images has a row of zeros."""
    return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)


def most_confused(counts: np.ndarray, n: int = 10) -> list[tuple[int, int, int]]:
    """Return the n largest counts off the diagonal as (class, predicted class, count).

    Equal counts are in the order of their classes.
    """
    pairs = [(int(i), int(j), int(counts[i, j])) for i, j in np.argwhere(counts) if i != j]
    return sorted(pairs, key=lambda p: (-p[2], p[:2]))[:n]


def confusion(bundle: Bundle) -> Figure:
    """Draw the row-normalised confusion matrix of one student, summed over seeds."""
    matrix = confusion_matrix(bundle)
    assert matrix is not None, "`drawable` refuses the figure"
    percent, size = row_percent(matrix.counts), len(matrix.counts)
    names, _ = readable_names(_names(bundle, size))
    names = [n if len(n) <= LONGEST_NAME else f"{n[: LONGEST_NAME - 1]}…" for n in names]
    numbered = size <= MOST_NUMBERED
    figure = Figure(figsize=(6.2, 4.8), layout="constrained")
    axes = figure.subplots()
    # On a root scale the few per cent off the diagonal stay visible.
    image = axes.imshow(percent, cmap="Greys", norm=PowerNorm(0.5, 0, 100))
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
    bar.set_label("share of the class's test images (%, root scale)", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(True)
    if numbered:
        steep = any(len(n) > 3 for n in names)
        axes.set_xticks(range(size), names, rotation=90 if steep else 0)
        axes.set_yticks(range(size), names)
        for i, j in np.argwhere(percent):
            axes.text(
                j,
                i,
                f"{percent[i, j]:.0f}" if percent[i, j] == 100 else f"{percent[i, j]:.1f}",
                ha="center",
                va="center",
                color="1.0" if percent[i, j] > 30 else "0.0",
                fontsize=7 if size <= 10 else 5,
            )
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("predicted class" if numbered else f"predicted class ({size}, in their order)")
    axes.set_ylabel("class")
    write_title(figure, f"{bundle.name}: confusion matrix of {matrix.student} by {matrix.method}")
    return figure


def _names(bundle: Bundle, size: int) -> list[str]:
    return bundle.class_names or [str(i) for i in range(size)]


def texts(bundle: Bundle) -> Texts:
    """Return the texts of the figure."""
    matrix, (row, _) = confusion_matrix(bundle), chosen_for_confusion(bundle)
    assert matrix is not None, "`drawable` refuses the figure"
    names = _names(bundle, len(matrix.counts))
    _, by_number = readable_names(names)
    right = 100 * np.trace(matrix.counts) / matrix.counts.sum()
    worst = most_confused(matrix.counts, 3)
    # Without names, the number of a class says nothing to a reader.
    pairs = [f"{names[i]} as {names[j]} ({n} images)" for i, j, n in worst]
    pairs = pairs if bundle.class_names else []
    return Texts(
        f"Confusion matrix of {len(names)} classes for {matrix.student} trained by "
        f"{matrix.method}: {right:.1f} % of the test images are on the diagonal.",
        caption_of(
            f"rows in per cent of the class's test images, summed over {seeds_text([matrix.n])}",
            f"most often confused: {', '.join(pairs)}" if pairs else "",
            "shown is the file's last student and "
            + ("first method with stages" if row.number > 1 else "last method"),
            *by_number if len(names) <= MOST_NUMBERED else (),
            data_text(bundle, "test"),
            protocol_text(bundle),
        ),
    )


def readable_names(names: list[str]) -> tuple[list[str], list[str]]:
    """Replace each name that the font cannot write by the number of its class.

    Returns:
        The names, and the lines of the caption that explain the numbers: none, or one.
    """
    labels = [name if readable(name) else str(i) for i, name in enumerate(names)]
    numbers = [str(i) for i, name in enumerate(names) if not readable(name)]
    if not numbers:
        return labels, []
    listed = f"{', '.join(numbers)} of {len(names)}" if len(numbers) < len(names) else "all"
    why = "the font has not all letters of their names; `class_names` of the bundle lists them"
    return labels, [f"classes as numbers, from 0: {listed} ({why})"]


def _missing(bundle: Bundle) -> str | None:
    if has_many_tasks(bundle):
        return MANY_TASKS  # whose classes differ
    if confusion_matrix(bundle) is not None:
        return None
    return OLD_CELLS if bundle.confusions else OLD_BUNDLE


FIGURES = (Kind("confusion", confusion, texts, _missing),)
