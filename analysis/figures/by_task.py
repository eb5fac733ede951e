"""Test accuracy against what teacher and student share, and against the shots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    Kind,
    Texts,
    caption_of,
    data_text,
    intervals_text,
    labels_of,
    listed,
    percent_text,
    protocol_text,
    rows_in_stage,
    write_title,
)
from harness.analysis.figures.line_ends import LINE, MARGIN, Limits, limits, name_ends
from harness.analysis.figures.method_styles import styles_of
from harness.analysis.figures.style import ROUND_STEPS, Style, stagger, title_panel, write_legend
from harness.analysis.statistics import Estimate
from harness.analysis.tables.rows import (
    Column,
    cell_estimate,
    columns_of,
    part_sizes,
    rows_of,
    select,
)
from harness.experiment.tasks import ALL
from harness.plan import TEACHER

Dimension = Literal["overlap", "shots"]
AXIS = {
    "overlap": "overlap (classes shared with the teacher)",
    "shots": "shots (training images per {old}class, log scale)",
}
MOST_IN_A_ROW = 4  # panels
WIDTH, HEIGHT = 3.0, 2.9  # inches of a panel, about
BROKEN = 0.9  # inches of the lower part of a broken axis
SIDE = 0.07  # of the axis, left and right of its points
DODGE = 2.5  # points between the intervals of two methods at one place
FEWEST = 3  # columns of a line chart; the dots of `accuracy` show fewer


@dataclass(frozen=True)
class Point:
    """Test accuracy of one method and column: its place on the axis, and its estimate."""

    x: float
    estimate: Estimate


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
            if found := cell_estimate(bundle, row, column):
                lines.setdefault(labels[row.method], []).append(Point(x, found))
    return lines


def against(bundle: Bundle, dimension: Dimension) -> Figure:
    """Draw one line per method, in one panel per student and value of the other dimension.

    If a few methods lie far below the others, the axis is broken, and a lower part shows them.
    """
    panels, styles = panels_of(bundle, dimension), styles_of(bundle)
    n_students = len({panel.columns[0].networks for panel in panels})
    n_columns = min(len(panels) // n_students, MOST_IN_A_ROW)  # one row per student, if they fit
    lines = [points(bundle, panel, dimension) for panel in panels]
    found = [p.estimate for line in lines for ps in line.values() for p in ps]
    parts = [limits(found, (0, 100), 100)]
    least = min(100 * e.mean for e in found)
    if least < parts[0].low:
        parts.append(Limits(least - MARGIN * (parts[0].low - least), parts[0].low))
    height = max(HEIGHT, LINE * len(set().union(*lines)) + 0.8)
    heights = [height, BROKEN][: len(parts)]
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(
        figsize=(max(7.2, 2.8 + WIDTH * n_columns), 0.4 + sum(heights) * n_rows),
        layout="constrained",
    )
    grid = figure.subplots(
        n_rows * len(parts), n_columns, squeeze=False, height_ratios=heights * n_rows
    )
    unnamed: dict[str, Style] = {}
    for i in range(n_rows * n_columns):
        row, k = divmod(i, n_columns)
        stack = grid[row * len(parts) : (row + 1) * len(parts), k]
        if i >= len(panels):
            for axes in stack:
                axes.axis("off")
            continue
        is_last = k == n_columns - 1 or i == len(panels) - 1
        for axes, part, inches in zip(stack, parts, heights, strict=True):
            _draw(bundle, axes, panels[i], dimension, lines[i], styles)
            axes.set_ylim(part.low, part.high)
            if is_last:
                ends = {
                    name: (ps[-1].x, y)
                    for name, ps in lines[i].items()
                    if not part.is_outside(y := 100 * ps[-1].estimate.mean)
                }
                name_ends(axes, ends, styles, inches - 0.8 * (inches == height))
        if len(parts) > 1:
            _break(*stack)
        old = "old " if bundle.tasks and bundle.tasks.new is not None else ""
        stack[-1].set_xlabel(AXIS[dimension].format(old=old))
        title_panel(stack[0], panels[i].title, WIDTH)
        stack[0].set_ylabel("test accuracy (%)" if k == 0 else "")
        if is_last:
            in_row = set().union(*lines[i - k : i + 1])
            unnamed |= {n: styles[n] for n in styles if n in in_row - lines[i].keys()}
    write_title(figure, f"{bundle.name}: test accuracy against {dimension}")
    if unnamed:  # lines that the last panel of their row does not have
        samples = [Line2D([], [], linestyle=s.line, **s.point) for s in unnamed.values()]
        write_legend(figure, samples, list(unnamed), most=3, handlelength=4)
    return figure


def _break(upper: Axes, lower: Axes) -> None:
    """Mark the axes of two parts as one broken axis."""
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0, labelbottom=False)
    upper.set_xlabel("")
    lower.yaxis.set_major_locator(MaxNLocator(3, steps=ROUND_STEPS, prune="upper"))
    slash: dict[str, Any] = {
        "marker": [(-1, -0.6), (1, 0.6)],
        "markersize": 8,
        "linestyle": "none",
        "color": "0.2",
        "clip_on": False,
    }
    for axes, y in ((upper, 0), (lower, 1)):
        axes.add_artist(Line2D([0], [y], transform=axes.transAxes, **slash))


def _draw(
    bundle: Bundle,
    axes: Axes,
    panel: Panel,
    dimension: Dimension,
    lines: dict[str, list[Point]],
    styles: dict[str, Style],
) -> None:
    xs = places(bundle, panel, dimension)
    if dimension == "shots" and 0 in xs:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.2, 1.2 * max(xs))  # matplotlib's own margin is a third of this axis
    elif dimension == "shots":
        axes.set_xscale("log")
        factor = (max(xs) / min(xs)) ** SIDE
        axes.set_xlim(min(xs) / factor, max(xs) * factor)
    else:
        room = SIDE * (max(xs) - min(xs))
        axes.set_xlim(min(xs) - room, max(xs) + room)
    for i, (method, line) in enumerate(lines.items()):
        # Side by side, as intervals at one place would hide each other.
        dodge = DODGE * (i - (len(lines) - 1) / 2)
        _draw_line(axes, line, styles[method], method, dodge)
    _draw_teacher(bundle, axes, panel)
    words = [str(c.task.dimensions[dimension]) for c in panel.columns if c.task]
    stagger(axes, xs, words, WIDTH)
    axes.grid(color="0.92")


def _draw_line(axes: Axes, line: list[Point], style: Style, method: str, dodge: float) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    halves = [point.estimate.shown_half_width for point in line]
    aside = ScaledTranslation(dodge / 72, 0, figure.dpi_scale_trans)
    axes.errorbar(
        [point.x for point in line],
        [100 * point.estimate.mean for point in line],
        yerr=[np.nan if h is None else 100 * h for h in halves],
        **style.point,
        linestyle=style.line,
        markersize=6 if style.is_line_art else 4.5,
        linewidth=1.1,
        elinewidth=0.8,
        label=method,
        transform=axes.transData + aside,
    )


def _draw_teacher(bundle: Bundle, axes: Axes, panel: Panel) -> None:
    row = next((r for r in rows_of(bundle) if r.stage == TEACHER), None)
    found = row and cell_estimate(bundle, row, panel.columns[0])
    if found:
        axes.axhline(100 * found.mean, color="0.7", linestyle="--", linewidth=0.8, zorder=0)


def texts(bundle: Bundle, dimension: Dimension) -> Texts:
    """Return the texts of the figure of a dimension."""
    panels = panels_of(bundle, dimension)
    lines = [points(bundle, panel, dimension) for panel in panels]
    counts = {p.estimate.n for line in lines for ps in line.values() for p in ps}
    order = sorted(
        zip(places(bundle, panels[0], dimension), panels[0].columns, strict=True),
        key=lambda pair: pair[0],
    )
    words = [str(c.task.dimensions[dimension]) for _, c in order if c.task]
    names = list(dict.fromkeys(name for line in lines for name in line))
    from_to = [
        f"{name} from {percent_text(ps[0].estimate.mean)} to {percent_text(ps[-1].estimate.mean)}"
        for name, ps in lines[0].items()
    ]
    ways = f" From the lowest {dimension} to the highest: {listed(from_to)}."
    return Texts(
        f"Line chart of test accuracy against {dimension} ({listed(words)}) for {len(names)} "
        f"methods{f', in {len(panels)} panels' if len(panels) > 1 else ''}."
        f"{ways if len(panels) == 1 else ''}",
        caption_of(
            intervals_text(counts, "lines: means; bars"),
            "dashed line: the teacher, on its own task",
            data_text(bundle, "test"),
            protocol_text(bundle),
        ),
    )


def _missing(bundle: Bundle, dimension: Dimension) -> str | None:
    longest = max((len(p.columns) for p in panels_of(bundle, dimension)), default=0)
    return None if longest >= FEWEST else ""


DIMENSIONS: tuple[Dimension, ...] = ("overlap", "shots")
FIGURES = tuple(
    Kind(
        name,
        partial(against, dimension=name),
        partial(texts, dimension=name),
        partial(_missing, dimension=name),
    )
    for name in DIMENSIONS
)
