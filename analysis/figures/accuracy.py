"""Test accuracy of each method, and its paired difference from the plain student's.

The methods are lines of a dot plot, which has room for their names, and each table column has a
panel of accuracies and one of differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import inf

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    Kind,
    Texts,
    caption_of,
    data_text,
    has_many_tasks,
    intervals_text,
    listed,
    percent_text,
    protocol_text,
    rows_in_stage,
    write_title,
)
from harness.analysis.figures.line_ends import SMALL, Limits, shared_limits
from harness.analysis.figures.method_styles import TEACHER_STYLE, styles_of
from harness.analysis.figures.style import LETTER, ROUND_STEPS, Style, title_panel
from harness.analysis.statistics import FEWEST_SHOWN, Estimate
from harness.analysis.tables.rows import (
    Column,
    ColumnGroup,
    Row,
    best_rows,
    cell_estimate,
    column_groups,
    columns_of,
    rows_of,
)
from harness.analysis.verdicts import counts_images, differences_of
from harness.plan import TEACHER

NAMES, PANEL, LINE, HEAD = 2.0, 1.3, 0.19, 0.85  # inches: names, panels, a method, titles
BARS = "a bar that is hidden is shorter than its dot; one that reaches the edge may be longer"
MOST_IN_A_LINE = 2  # table columns whose differences stand beside, not below


@dataclass(frozen=True)
class Dots:
    """The contents of one panel.

    Attributes:
        column: the label of the table column.
        head: its words in the panel's title.
        values: label of a line -> estimate, as a fraction.
        is_difference: whether the values are differences.
    """

    column: str
    head: str
    values: dict[str, Estimate]
    is_difference: bool

    @property
    def key(self) -> tuple[str, bool]:
        """The panel's identity within its figure."""
        return self.column, self.is_difference


def lines_of(bundle: Bundle) -> list[Row]:
    """Return the rows to show: the teacher, and every method's final accuracy."""
    teacher = [row for row in rows_of(bundle) if row.stage == TEACHER]
    return [*teacher, *rows_in_stage(bundle, LAST)]


def heads_of(bundle: Bundle, group: ColumnGroup) -> list[str]:
    """Return the titles of a table's panels: all words if there are several tables."""
    is_only = len(group.columns) == len(columns_of(bundle))
    return group.heads if is_only else [column.label for column in group.columns]


def accuracies(bundle: Bundle, group: ColumnGroup) -> list[Dots]:
    """Return the panels of accuracies of one table."""
    rows = lines_of(bundle)
    panels = []
    for column, head in zip(group.columns, heads_of(bundle, group), strict=True):
        found = {row.label: cell_estimate(bundle, row, column) for row in rows}
        panels.append(Dots(column.label, head, {k: e for k, e in found.items() if e}, False))
    return panels


def differences(bundle: Bundle, group: ColumnGroup) -> list[Dots]:
    """Return the panels of paired differences of one table; none for a single method.

    The plain student, from which they are, is a point without an interval at 0.
    """
    every = differences_of(bundle)
    if not every:
        return []
    panels = []
    for column, head in zip(group.columns, heads_of(bundle, group), strict=True):
        own = {d.row: d.difference for d in every if d.column == column.label}
        if own:
            own = {every[0].baseline: Estimate(0.0, None, 1)} | own
        panels.append(Dots(column.label, head, own, True))
    return panels


def accuracy(bundle: Bundle) -> Figure:
    """Draw test accuracies and paired differences; one block of panels per table."""
    groups = column_groups(columns_of(bundle))
    labels, styles = [row.label for row in lines_of(bundle)], styles_of(bundle)
    blocks = [(accuracies(bundle, g), differences(bundle, g)) for g in groups]
    shown = axis_limits(bundle, [dots for block in blocks for part in block for dots in part])
    widest = max(len(group.columns) for group in groups)
    lines: list[list[Dots]] = []
    for left, right in blocks:
        lines += [[*left, *right]] if widest <= MOST_IN_A_LINE else [p for p in (left, right) if p]
    across = max(map(len, lines))
    names = [[n for n in labels if any(n in dots.values for dots in line)] for line in lines]
    heights = [HEAD + LINE * len(part) for part in names]
    size = (max(7.2, NAMES + PANEL * across), 0.3 + sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(lines), across, squeeze=False, height_ratios=heights)
    room = (size[0] - LETTER * max(map(len, labels))) / across
    for line, part, row_of_axes in zip(lines, names, grid, strict=True):
        for i, axes in enumerate(row_of_axes):
            if i >= len(line):
                axes.axis("off")
                continue
            _draw(
                axes, line[i], part, styles, shown.get(line[i].key, Limits(0, 1)), has_names=i == 0
            )
            title_panel(axes, line[i].head, room)
            unit = "points" if line[i].is_difference else "%"
            name = "difference" if line[i].is_difference else "test accuracy"
            axes.set_xlabel(f"{name} ({unit})")
    write_title(figure, f"{bundle.name}: test accuracy of each method")
    return figure


def axis_limits(bundle: Bundle, panels: list[Dots]) -> dict[tuple[str, bool], Limits]:
    """Return key of a panel -> its limits.

    Students of one task share their axes, so that they compare. Tasks differ in how hard they are,
    and each has its own.
    """
    bounds = {False: (0.0, 100.0), True: (-inf, inf)}
    result: dict[tuple[str, bool], Limits] = {}
    for dots in panels:
        alike = [
            p
            for p in panels
            if p.is_difference == dots.is_difference and (p is dots or not has_many_tasks(bundle))
        ]
        if dots.values:
            values = [[*p.values.values()] for p in alike]
            result[dots.key] = shared_limits(values, bounds[dots.is_difference], 100)
    return result


def _draw(
    axes: Axes,
    dots: Dots,
    labels: list[str],
    styles: Mapping[str, Style],
    limit: Limits,
    has_names: bool,
) -> None:
    """Draw one panel, the first label on top."""
    axes.set_xlim(limit.low, limit.high)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    for i, label in enumerate(labels):
        found = dots.values.get(label)
        if found is None:
            continue
        style = styles.get(label, TEACHER_STYLE)
        mean, half = 100 * found.mean, found.shown_half_width
        if limit.is_outside(mean):
            _point_outside(axes, mean, i, limit, style)
            continue
        axes.errorbar(
            mean,
            i,
            # A single seed has no interval, rather than one of width 0.
            xerr=np.nan if half is None else 100 * half,
            **style.point,
            linestyle="",
            markersize=6 if style.is_line_art else 4.5,
            elinewidth=1.1,
            label=label,
        )
    if dots.is_difference:
        axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    elif (teacher := dots.values.get(labels[0])) and labels[0] not in styles:
        axes.axvline(100 * teacher.mean, color="0.7", linestyle="--", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(labels)), labels if has_names else [""] * len(labels))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=ROUND_STEPS))
    axes.grid(axis="both", color="0.92")


def _point_outside(axes: Axes, mean: float, i: int, limit: Limits, style: Style) -> None:
    """Mark a mean beyond the axis with an arrow at the edge, and write its value."""
    is_below = mean < limit.low
    edge, side = (limit.low, 1) if is_below else (limit.high, -1)
    axes.annotate(
        f"{mean:.1f}",
        xy=(edge, i),
        xytext=(16 * side, 0),
        textcoords="offset points",
        ha="left" if is_below else "right",
        va="center",
        fontsize=SMALL - 1,
        bbox={"facecolor": "1.0", "edgecolor": "none", "pad": 0.5},
        arrowprops={"arrowstyle": "->", "color": style.color, "shrinkA": 0, "shrinkB": 0},
    )


def texts(bundle: Bundle) -> Texts:
    """Return the texts of the figure."""
    columns = columns_of(bundle)
    groups = column_groups(columns)
    every, gaps = (
        list(chain.from_iterable(part(bundle, group) for group in groups))
        for part in (accuracies, differences)
    )
    rows = rows_in_stage(bundle, LAST)
    heads = [column.label for column in columns]
    where = f"for {listed(heads)}" if len(heads) <= 4 else f"in {len(heads)} columns"
    ends = _best_text(bundle, columns) if len(columns) <= 4 else ""
    baseline = differences_of(bundle)[0].baseline if gaps else ""
    by_image = " and by test image" * counts_images(bundle)
    beside = f"difference: from {baseline}, paired by seed{by_image}, each with its own interval"
    counts = {e.n for dots in every for e in dots.values.values()}
    shown = axis_limits(bundle, [*every, *gaps])
    outside = any(
        shown[dots.key].is_outside(100 * e.mean)
        for dots in (*every, *gaps)
        for e in dots.values.values()
    )
    has_teacher = any(row.stage == TEACHER for row in lines_of(bundle))
    own = ", on its own task" if bundle.tasks else ""
    shared = "have axes of their own" if has_many_tasks(bundle) else "of one kind share their axis"
    gap_text = f", and the paired differences from {baseline}" if gaps else ""
    return Texts(
        f"Dot plot of the test accuracy of {len(rows)} methods {where}{gap_text}.{ends}",
        caption_of(
            intervals_text(counts, "dots: means; bars"),
            f"dashed line: the teacher{own}" if has_teacher else "",
            beside if gaps else "",
            "an arrow with a number is a mean outside its panel" if outside else "",
            f"panels {shared}" if len(every) > 1 else "",
            BARS if max(counts) >= FEWEST_SHOWN else "",
            data_text(bundle, "test"),
            protocol_text(bundle),
        ),
    )


def _best_text(bundle: Bundle, columns: list[Column]) -> str:
    """Return a sentence on each column's highest mean among the students; "" without one."""
    best = []
    for column in columns:
        for row in sorted(best_rows(bundle, column), key=lambda r: r.label):
            found = cell_estimate(bundle, row, column)
            if found:
                best.append(f"{row.label} with {percent_text(found.mean)} ({column.label})")
    return f" The highest mean among the students: {listed(best)}." if best else ""


FIGURES = (Kind("accuracy", accuracy, texts),)
