"""The epochs behind a number: a small SVG that is legible on white and on black, and a table.

The figure is plain text of integers, without styles, ids or fonts of its own, so that the same
bundle gives the same bytes everywhere and a page may contain many of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from harness.analysis.bundle import Bundle
from harness.analysis.bundle_fields import Number
from harness.analysis.tables.result_table import Cell, ResultTable
from harness.analysis.tables.rows import Column, Row, select
from harness.analysis.tables.runs import heading
from harness.common.metrics import ACCURACY, metric_name

LOSS = metric_name("loss", "total")
INK = "#7a7a7a"  # of text and axes: its contrast with white and with GitHub's black is above 4
COLORS = {
    "training loss": "#009e73",
    "train": "#c96f00",
    "validation": "#b0579a",
    "test": "#1f7fc4",
}
DESCRIPTION = (
    "A figure has a line per seed; the dots are the accuracies that the tables show. Training loss "
    "is each method's own, in weighted nats."
)
EPOCHS = "Training loss / test accuracy (%) by epoch"  # the title of the table
MOST_POINTS = 40  # of one curve, besides the first; a longer one has every second, third, .. epoch
MOST_EPOCHS = 6  # columns of the table, besides the first
TOP, BOTTOM, LEFT, WIDTH, HEIGHT = 25, 155, 50, 320, 185  # of a panel, in pixels
UNSCALED, ROUND = 'vector-effect="non-scaling-stroke"', 'stroke-width="4" stroke-linecap="round"'
TICKS = 5  # of an axis, about

T = TypeVar("T")
Point = tuple[int, float]  # epoch, value


@dataclass(frozen=True)
class Panel:
    """One axis.

    Attributes:
        title: What stands before the names of the curves.
        curves: Name -> the points of each run.
        is_log: Whether the axis is logarithmic.
        reported: The points that the table's number is the mean of.
    """

    title: str
    curves: dict[str, list[list[Point]]]
    is_log: bool = False
    reported: Sequence[Point] = ()


def svg(bundle: Bundle, row: Row, column: Column) -> str:
    """Return the figure of a number's runs, a line per seed; "" if it has no curves."""
    if not (inside := elements(bundle, row, column)):
        return ""
    whole, name = (
        width(bundle, row, column),
        escape(f"Curves of {heading(row, column)}", quote=True),
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{name}" '
        f'width="{whole}" height="{HEIGHT}" viewBox="0 0 {whole} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">\n{inside}</svg>\n'
    )


def elements(bundle: Bundle, row: Row, column: Column) -> str:
    """Return the elements of a number's figure; "" if it has no curves."""
    panels = _panels(bundle, row, column)
    parts = (part for i, panel in enumerate(panels) for part in _panel(panel, WIDTH * i))
    return "".join(f"{part}\n" for part in parts)


def width(bundle: Bundle, row: Row, column: Column) -> int:
    """Return the width of a number's figure in pixels; its height is HEIGHT."""
    return WIDTH * len(_panels(bundle, row, column))


def has_curves(bundle: Bundle, row: Row, column: Column) -> bool:
    """Return whether a number's runs have taken steps, and the bundle has their epochs."""
    return bool(_panels(bundle, row, column))


def epoch_table(bundle: Bundle, row: Row, column: Column) -> ResultTable | None:
    """Return training loss and test accuracy in per cent of each run, one column per epoch.

    These are some of the epochs after which test images were classified; None if the bundle has no
    curves.
    """
    numbers = select(bundle, row, column)
    tests = [_points(number, metric_name("test", number.result)) for number in numbers]
    if not row.takes_steps or not any(tests):
        return None
    epochs = _thinned(sorted({epoch for points in tests for epoch, _ in points}), MOST_EPOCHS)
    rows = []
    for number, points in zip(numbers, tests, strict=True):
        losses = {epoch: f"{value:.2g}" for epoch, value in _points(number, LOSS)}
        accuracies = {epoch: f"{100 * value:.1f}" for epoch, value in points}
        cells = ([text[e] for text in (losses, accuracies) if e in text] for e in epochs)
        rows.append([Cell(number.seed), *(Cell(" / ".join(words) or None) for words in cells)])
    head = ["seed, epoch", *map(str, epochs)]
    return ResultTable(head, rows, align="r" * len(head))


def _panels(bundle: Bundle, row: Row, column: Column) -> list[Panel]:
    """Return the panels for which the bundle has curves."""
    numbers = select(bundle, row, column) if row.takes_steps else []

    def curves(metric: str) -> list[list[Point]]:
        return [points for number in numbers if (points := _points(number, metric))]

    losses = curves(LOSS)
    scores = {
        part: [[(epoch, 100 * value) for epoch, value in points] for points in found]
        for part in ("train", "validation", "test")
        if (found := curves(metric_name(part, ACCURACY if part == "train" else row.result)))
    }
    values = [value for points in losses for _, value in points]
    is_log = bool(values) and max(values) > 3 * min(values) > 1e-100  # far from rounding to 0
    reported = [p for number in numbers if (p := _reported(number, bundle.reported))]
    return [
        *([Panel("", {"training loss": losses}, is_log)] if losses else []),
        *([Panel("accuracy (%): ", scores, reported=reported)] if scores else []),
    ]


def _points(number: Number, metric: str) -> list[Point]:
    values = number.cell.curves.get(metric, [])
    return [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None]


def _reported(number: Number, rule: str) -> Point | None:
    """Return the point of the test curve that the selection rule takes; None without a curve."""
    points = _points(number, metric_name("test", number.result))
    if not points:
        return None
    manifest, best = number.cell.manifest, max(points, key=lambda point: point[1])
    epochs = {"last": manifest.epochs, "selected": manifest.selected_epoch, "best_on_test": best[0]}
    return epochs[rule], 100 * number.accuracy(rule)


def _thinned(items: Sequence[T], most: int) -> list[T]:
    """Return the first item and every second, third, .. one up to the last: 1 + `most` at most."""
    step = max(1, math.ceil(len(items) / most))
    return [items[i] for i in sorted({0, *range(len(items) - 1, 0, -step)})]


def _panel(panel: Panel, left: int) -> Iterator[str]:
    """Yield the elements of a panel that begins `left` pixels from the left.

    Curves are written in epochs, which SVG scales: steps to the right are short numbers.
    """
    start, end = left + LEFT, left + WIDTH - 10
    every = [*(run for runs in panel.curves.values() for run in runs), panel.reported]
    values = [value for points in every for _, value in points]
    last = max(epoch for points in every for epoch, _ in points)
    transform: Callable[[float], float] = math.log10 if panel.is_log else float
    low, high = transform(min(values)), transform(max(values))
    margin = 0.05 * (high - low) or max(0.5, 1e-9 * abs(high))
    low, high = low - margin, high + margin
    scale = (end - start) / max(1, last - 1)

    def place(point: Point) -> tuple[int, int]:
        share = (transform(point[1]) - low) / (high - low)
        return point[0] - 1, round(BOTTOM - (BOTTOM - TOP) * share)

    words = [f'<tspan fill="{COLORS[name]}">{name}</tspan>' for name in panel.curves]
    yield f'<text x="{start}" y="14">{panel.title}{", ".join(words)}</text>'
    ticks = _log_ticks(low, high) if panel.is_log else _round_ticks(low, high)
    heights = {place((1, tick))[1]: f"{tick:g}" for tick in ticks}
    marks = "".join(f"M{start - 3} {y}h3" for y in heights)
    yield f'<path d="M{start} {TOP}V{BOTTOM}H{end}{marks}" stroke="{INK}" fill="none"/>'
    for y, text in heights.items():
        yield f'<text x="{start - 6}" y="{y + 4}" text-anchor="end">{text}</text>'
    yield f'<text x="{start}" y="{BOTTOM + 16}">epoch 1</text>'
    yield f'<text x="{end}" y="{BOTTOM + 16}" text-anchor="end">{last}</text>'
    yield f'<g fill="none" opacity=".85" transform="translate({start} 0) scale({scale:.6g} 1)">'
    for name, runs in panel.curves.items():
        lines = "".join(_line([*map(place, _thinned(run, MOST_POINTS))]) for run in runs)
        yield f'<path d="{lines}" stroke="{COLORS[name]}" {UNSCALED}/>'
        single = [run[0] for run in runs if len(run) == 1]
        points = panel.reported if name == "test" else single
        if dots := "".join("M{} {}h0".format(*place(point)) for point in points):
            yield f'<path d="{dots}" stroke="{COLORS[name]}" {UNSCALED} {ROUND}/>'
    yield "</g>"


def _line(places: Sequence[tuple[int, int]]) -> str:
    """Return the path through these places, with relative steps, which are short."""
    (x, y), *_ = places
    steps = [d for a, b in itertools.pairwise(places) for d in (b[0] - a[0], b[1] - a[1])]
    return f"M{x} {y}" + ("l" + " ".join(map(str, steps)).replace(" -", "-") if steps else "")


def _round_ticks(low: float, high: float) -> list[float]:
    """Return TICKS round numbers at most from low to high."""
    power = 10 ** math.floor(math.log10((high - low) / TICKS))
    step = next(s for f in (1, 2, 5, 10) if (high - low) / (s := f * power) <= TICKS)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return TICKS round numbers at most between two powers of ten that are far enough apart."""
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        round_numbers = (
            factor * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for factor in factors
        )
        ticks = [number for number in round_numbers if low <= math.log10(number) <= high]
        if len(ticks) <= TICKS:
            break
    return _thinned(ticks, TICKS)
