"""Training curves, one figure per stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    OLD_BUNDLE,
    Kind,
    centers,
    data_of,
    has_many_tasks,
    images_text,
    labels_of,
    rows_in_stage,
    seeds_text,
    styles_of,
    write_title,
)
from harness.analysis.figures.style import ROUND_STEPS, Style, scale_log, title_panel, write_legend
from harness.analysis.tables.rows import MOST_COLUMNS, columns_of, select
from harness.common.metrics import NCM_METRICS, metric_name

LOSS = metric_name("loss", "total")
WIDTH = 2.5  # inches of a panel, about


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest value over n seeds after each of `epochs`, which count from 1."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: int


def accuracy_metric(bundle: Bundle, number: int) -> str:
    """Return the curve to show: on validation images or, if there are none, on test images."""
    part = "validation" if "validation" in data_of(bundle) else "test"
    return metric_name(part, rows_in_stage(bundle, number)[0].result)


def band(curves: list[list[float | None]]) -> Band | None:
    """Return the band over the epochs at which every curve has a value; None if there are none.

    Args:
        curves: one per seed.
    """
    columns = [
        (epoch, [v for v in values if v is not None])
        for epoch, values in enumerate(zip(*curves, strict=False), 1)
        if None not in values
    ]
    if not columns:
        return None
    return Band(
        [epoch for epoch, _ in columns],
        [float(np.mean(values)) for _, values in columns],
        [min(values) for _, values in columns],
        [max(values) for _, values in columns],
        len(curves),
    )


def second_half(band: Band) -> Band:
    """Return the part of a band from the middle of its epochs on."""
    first = sum(2 * epoch < band.epochs[-1] for epoch in band.epochs)
    mean, low, high = (values[first:] for values in (band.mean, band.low, band.high))
    return Band(band.epochs[first:], mean, low, high, band.n)


def bands(bundle: Bundle, number: int, metric: str) -> dict[str, dict[str, Band]]:
    """Return label of a column -> label of a method -> band."""
    labels = labels_of(bundle)
    result: dict[str, dict[str, Band]] = {}
    for column in columns_of(bundle):
        for row in rows_in_stage(bundle, number):
            if not row.takes_steps:
                continue  # a single value is no curve
            fingerprints = [number.cell.fingerprint for number in select(bundle, row, column)]
            curves = [bundle.curves.get(f, {}).get(metric) for f in fingerprints]
            over_seeds = band([c for c in curves if c])
            if over_seeds is not None:
                result.setdefault(column.label, {})[labels[row.method]] = over_seeds
    return result


def curves(bundle: Bundle, number: int) -> Figure:
    """Draw training loss and accuracy against the epoch, one column of panels per table column.

    Final accuracies lie close together, so the second half of their epochs is shown once more.
    """
    metric, styles = accuracy_metric(bundle, number), styles_of(bundle)
    part, _, name = metric.partition("/")
    form = "NCM accuracy" if name in NCM_METRICS else "accuracy"
    losses, scores = bands(bundle, number, LOSS), bands(bundle, number, metric)
    rows = [
        (losses, 1, "training loss, each method's own\n(weighted nats, log scale)"),
        (scores, 100, f"{part} {form} (%)"),
    ]
    if number == LAST:
        late = {c: {m: second_half(b) for m, b in line.items()} for c, line in scores.items()}
        rows.append((late, 100, f"{part} {form} (%),\nsecond half of the epochs"))
    columns = [c.label for c in columns_of(bundle) if c.label in losses]
    figure = Figure(
        figsize=(max(6.4, 1.0 + WIDTH * len(columns)), 1.6 + 2.4 * len(rows)), layout="constrained"
    )
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharex="row", sharey="row")
    drawn: dict[str, Style] = {}
    counts = set()
    for (by_column, scale, label), row_of_axes in zip(rows, panels, strict=True):
        row_of_axes[0].set_ylabel(label)
        for axes, column in zip(row_of_axes, columns, strict=True):
            for method, band in by_column.get(column, {}).items():
                drawn[method] = styles[method]
                counts.add(band.n)
                _draw_band(axes, band, styles[method], scale)
            axes.grid(color="0.92")
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=ROUND_STEPS))
    panels[1, 0].set_xlim(panels[0, 0].get_xlim())
    for axes, column in zip(panels[0], columns, strict=True):
        title_panel(axes, column, WIDTH)
        scale_log(axes, axes.yaxis)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    stage = f"stage {number}{', and methods without stages' if number == LAST else ''}"
    band_text = "no band" if counts == {1} else "line: mean, band: lowest to highest"
    details = [f"{seeds_text(counts)} ({band_text})", f"protocol {bundle.protocol}"]
    if name in NCM_METRICS:
        details[1] += f", NCM centres from the {centers(bundle)} images"
    sizes = f"{images_text(bundle, 'train')}, {images_text(bundle, part)}"
    write_title(figure, bundle, f"training curves, {stage}", sizes, *details)
    handles = [Line2D([], [], linestyle=s.line, **s.point) for s in drawn.values()]
    write_legend(figure, handles, list(drawn), most=4, handlelength=4)
    return figure


def _draw_band(axes: Axes, band: Band, style: Style, scale: float) -> None:
    low, high, mean = (scale * np.array(v) for v in (band.low, band.high, band.mean))
    if band.n > 1:
        axes.fill_between(band.epochs, low, high, color=style.color, alpha=0.15, linewidth=0)
    axes.plot(
        band.epochs,
        mean,
        **style.point,
        linestyle=style.line,
        linewidth=1.2,
        markersize=4,
        markevery=max(1, len(band.epochs) // 6),
    )


def _missing(bundle: Bundle, number: int) -> str | None:
    if not any(row.takes_steps for row in rows_in_stage(bundle, number)):
        return ""
    if len(columns_of(bundle)) > MOST_COLUMNS and has_many_tasks(bundle):
        return f"it has a panel a task, and this grid has more than {MOST_COLUMNS}"
    return None if bands(bundle, number, LOSS) else OLD_BUNDLE


FIGURES = tuple(
    Kind(f"curves-stage{n}", partial(curves, number=n), partial(_missing, number=n))
    for n in range(1, LAST + 1)
)
