"""Test accuracy of each student by each method."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    Kind,
    column_axis,
    draw_teacher,
    images_text,
    labels_of,
    protocol_text,
    rows_in_stage,
    seeds_text,
    styles_of,
    write_title,
)
from harness.analysis.figures.style import stagger, write_legend
from harness.analysis.tables.rows import ColumnGroup, Row, cell_estimate, column_groups, columns_of

MARGIN = 0.8  # inches beside the axes


def accuracy(bundle: Bundle) -> Figure:
    """Draw test accuracy by student and method, with 95 % t-intervals; one panel per table."""
    tables = column_groups(columns_of(bundle))
    rows = rows_in_stage(bundle, LAST)
    n = max(len(table.columns) for table in tables)
    width = max(7.2, 1.3 * n, 0.22 * n * len(rows))
    height = 4.4 + 0.2 * (len(rows) // 6) + 3.2 * (len(tables) - 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(tables), squeeze=False, sharey=True)[:, 0]
    counts = set()
    for axes, table in zip(panels, tables, strict=True):
        counts |= _draw(bundle, axes, table, rows, width - MARGIN)
        if len(tables) > 1:
            axes.set_title(table.title)
    panels[-1].set_xlabel(column_axis([c for table in tables for c in table.columns]))
    interval = "one value each, no interval" if counts == {1} else "mean and 95 % t-interval"
    write_title(
        figure,
        bundle,
        "test accuracy by student and method",
        images_text(bundle, "test"),
        f"{interval}, {seeds_text(counts)}",
        protocol_text(bundle),
    )
    handles, labels = panels[0].get_legend_handles_labels()
    write_legend(figure, handles, labels, most=3)
    return figure


def _draw(
    bundle: Bundle, axes: Axes, table: ColumnGroup, rows: list[Row], inches: float
) -> set[int]:
    """Draw one table, on axes of this width, and return its numbers of seeds."""
    styles, labels = styles_of(bundle), labels_of(bundle)
    # The methods of one student stand side by side, apart from those of the next.
    step = min(0.14, 0.8 / len(rows))
    counts = set()
    for i, row in enumerate(rows):
        style = styles[labels[row.method]]
        offset = (i - (len(rows) - 1) / 2) * step
        estimates = [(j, cell_estimate(bundle, row, c)) for j, c in enumerate(table.columns)]
        points = [(j + offset, e) for j, e in estimates if e is not None]
        counts |= {e.n for _, e in points}
        axes.errorbar(
            [x for x, _ in points],
            [100 * e.mean for _, e in points],
            # A single seed has no interval, rather than one of width 0.
            [np.nan if e.half_width is None else 100 * e.half_width for _, e in points],
            **style.point,
            linestyle="",
            capsize=3,
            label=labels[row.method],
        )
    draw_teacher(bundle, axes, table.columns)
    axes.set_xlim(-0.5, len(table.columns) - 0.5)
    stagger(axes, range(len(table.columns)), table.heads, inches)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="y", color="0.9")
    return counts


FIGURES = (Kind("accuracy", accuracy),)
