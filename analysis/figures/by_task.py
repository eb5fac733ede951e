"""Test accuracy against what teacher and student share, and against the shots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    Kind,
    draw_teacher,
    images_text,
    labels_of,
    protocol_text,
    rows_in_stage,
    seeds_text,
    styles_of,
    write_title,
)
from harness.analysis.figures.style import Style, stagger, title_panel, write_legend
from harness.analysis.tables.rows import Column, columns_of, part_sizes, select
from harness.experiment.tasks import ALL

Dimension = Literal["overlap", "shots"]
AXIS = {
    "overlap": "overlap (classes shared with the teacher)",
    "shots": "shots (training images per {old}class, log scale)",
}
MOST_IN_A_ROW = 4  # panels
WIDTH = 3.0  # inches of a panel, at least


@dataclass(frozen=True)
class Point:
    """Test accuracies of one method and column.

    Attributes:
        x: place on the axis.
        values: one fraction per seed.
    """

    x: float
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """Columns that differ in one dimension alone.

    Attributes:
        title: the other dimensions, where panels differ in them.
        columns: at least two.
    """

    title: str
    columns: list[Column]


def panels_of(bundle: Bundle, dimension: Dimension) -> list[Panel]:
    """Return one panel per student and value of the other dimension, if it has two columns."""
    panels: dict[tuple[str, str], list[Column]] = {}
    for column in columns_of(bundle):
        if dimension in column.words:
            others = [word for name, word in column.words.items() if name != dimension]
            panels.setdefault((column.networks, ", ".join(others)), []).append(column)
    return [Panel(others, columns) for (_, others), columns in panels.items() if len(columns) > 1]


def places(bundle: Bundle, panel: Panel, dimension: Dimension) -> list[float]:
    """Return each column's place on the axis; "all" stands at the number that it means."""
    tasks = [c.task.dimensions[dimension] if c.task else ALL for c in panel.columns]
    numbers = [n for n in tasks if isinstance(n, int)]
    section = bundle.tasks
    assert section is not None and numbers, "of several values one at most is `all`"
    everything: float = section.classes or 0
    if dimension == "shots" and ALL in tasks:
        row = rows_in_stage(bundle, LAST)[0]
        train = [int(part_sizes(select(bundle, row, c))["train"]) for c in panel.columns]
        size, fewest = train[tasks.index(ALL)], train[tasks.index(numbers[0])]
        # In an incremental task only the old classes are limited, so the others cancel out.
        limited = section.classes or fewest / numbers[0]
        everything = numbers[0] + (size - fewest) / limited
    return [everything if task == ALL else float(task) for task in tasks]


def points(bundle: Bundle, panel: Panel, dimension: Dimension) -> dict[str, list[Point]]:
    """Return label of a method -> its points by x, for the columns that it has numbers for."""
    xs, labels = places(bundle, panel, dimension), labels_of(bundle)
    lines: dict[str, list[Point]] = {}
    for row in rows_in_stage(bundle, LAST):
        for x, column in sorted(zip(xs, panel.columns, strict=True), key=lambda pair: pair[0]):
            values = [number.accuracy(bundle.reported) for number in select(bundle, row, column)]
            if values:
                lines.setdefault(labels[row.method], []).append(Point(x, values))
    return lines


def against(bundle: Bundle, dimension: Dimension) -> Figure:
    """Draw one line per method, in one panel per student and value of the other dimension."""
    panels = panels_of(bundle, dimension)
    n_students = len({panel.columns[0].networks for panel in panels})
    n_columns = min(len(panels) // n_students, MOST_IN_A_ROW)  # one row per student, if they fit
    n_rows = -(-len(panels) // n_columns)
    size = (max(7.2, 1.2 + 3.4 * n_columns), 1.8 + 3.2 * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    old = "old " if bundle.tasks and bundle.tasks.new is not None else ""
    counts: set[int] = set()
    for i, axes in enumerate(grid.flat):
        if i >= len(panels):
            axes.axis("off")
            continue
        counts |= _draw(bundle, axes, panels[i], dimension)
        title_panel(axes, panels[i].title, WIDTH)
        axes.set_xlabel(AXIS[dimension].format(old=old))
        if i % n_columns == 0:
            axes.set_ylabel("test accuracy (%)")
    band = "no band" if counts == {1} else "line: mean, band: lowest to highest"
    write_title(
        figure,
        bundle,
        f"test accuracy against {dimension}",
        images_text(bundle, "test"),
        f"{seeds_text(counts)} ({band})",
        protocol_text(bundle),
    )
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    write_legend(figure, list(handles.values()), list(handles), most=3, handlelength=4)
    return figure


def _draw(bundle: Bundle, axes: Axes, panel: Panel, dimension: Dimension) -> set[int]:
    """Draw one panel and return its numbers of seeds."""
    styles = styles_of(bundle)
    xs, lines = places(bundle, panel, dimension), points(bundle, panel, dimension)
    if dimension == "shots" and 0 in xs:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.2, 1.2 * max(xs))  # matplotlib's own margin is a third of this axis
    elif dimension == "shots":
        axes.set_xscale("log")
    for method, line in lines.items():
        _draw_line(axes, line, styles[method], method)
    draw_teacher(bundle, axes, panel.columns)
    words = [str(c.task.dimensions[dimension]) for c in panel.columns if c.task]
    stagger(axes, xs, words, WIDTH)
    axes.grid(color="0.92")
    return {len(point.values) for line in lines.values() for point in line}


def _draw_line(axes: Axes, line: list[Point], style: Style, method: str) -> None:
    xs = [point.x for point in line]
    values = [100 * np.array(point.values) for point in line]
    if any(len(v) > 1 for v in values):
        low, high = [v.min() for v in values], [v.max() for v in values]
        if len(xs) == 1:  # the band has no width
            axes.vlines(xs, low, high, color=style.color, alpha=0.5)
        axes.fill_between(xs, low, high, color=style.color, alpha=0.12, linewidth=0)
    axes.plot(
        xs,
        [v.mean() for v in values],
        **style.point,
        linestyle=style.line,
        markersize=5,
        linewidth=1.2,
        label=method,
    )


def _missing(bundle: Bundle, dimension: Dimension) -> str | None:
    return None if panels_of(bundle, dimension) else ""


DIMENSIONS: tuple[Dimension, ...] = ("overlap", "shots")
FIGURES = tuple(
    Kind(name, partial(against, dimension=name), partial(_missing, dimension=name))
    for name in DIMENSIONS
)
