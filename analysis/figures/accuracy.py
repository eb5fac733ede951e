"""Test accuracy of each student by each method."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from analysis.bundle import Bundle
from analysis.figures.base import (
    LAST,
    Kind,
    images,
    labels_of,
    protocol,
    rows_in_stage,
    seeds,
    styles_of,
    title,
)
from analysis.tables.rows import cell_estimate, rows_of, students_of
from harness.plan import TEACHER


def accuracy(bundle: Bundle) -> Figure:
    """Test accuracy of each student by each method, with 95 % t-intervals over seeds."""
    students, styles, labels = students_of(bundle), styles_of(bundle), labels_of(bundle)
    rows = rows_in_stage(bundle, LAST)
    # Methods of one student stand beside each other, those of the next one apart from them.
    step = min(0.14, 0.8 / len(rows))
    width = max(7.2, 1.3 * len(students), 0.22 * len(students) * len(rows))
    figure = Figure(figsize=(width, 4.4 + 0.2 * (len(rows) // 6)), layout="constrained")
    axes = figure.subplots()
    counts = set()
    for i, row in enumerate(rows):
        style = styles[labels[row.method]]
        offset = (i - (len(rows) - 1) / 2) * step
        found = [(j, cell_estimate(bundle, row, s)) for j, s in enumerate(students)]
        shown = [(j + offset, e) for j, e in found if e is not None]
        counts |= {e.n for _, e in shown}
        axes.errorbar(
            [x for x, _ in shown],
            [100 * e.mean for _, e in shown],
            # No interval of one seed: not one of width 0.
            [np.nan if e.half_width is None else 100 * e.half_width for _, e in shown],
            fmt=style.marker,
            color=style.grey,
            markerfacecolor=style.face,
            capsize=3,
            label=labels[row.method],
        )
    teacher = [r for r in rows_of(bundle) if r.stage == TEACHER]
    value = cell_estimate(bundle, teacher[0], students[0]) if teacher else None
    if value is not None:
        label = f"Teacher ({bundle.teacher}), mean"
        level = 100 * value.mean
        axes.axhline(level, color="0.6", linestyle="--", linewidth=1, zorder=0, label=label)
    axes.set_xticks(range(len(students)), students)
    axes.set_xlim(-0.5, len(students) - 0.5)
    axes.set_ylabel("test accuracy (%)")
    axes.set_xlabel("student")
    axes.grid(axis="y", color="0.9")
    interval = "one value each, no interval" if counts == {1} else "mean and 95 % t-interval"
    title(
        figure,
        bundle,
        "test accuracy by student and method",
        images(bundle, "test"),
        f"{interval}, {seeds(counts)}",
        protocol(bundle),
    )
    figure.legend(loc="outside lower center", ncols=3)
    return figure


FIGURES = (Kind("accuracy", accuracy),)
