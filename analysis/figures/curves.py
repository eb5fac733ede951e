"""Training curves, one figure per stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

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
    Texts,
    caption_of,
    centers,
    data_of,
    data_text,
    has_many_tasks,
    intervals_text,
    labels_of,
    listed,
    rows_in_stage,
    seeds_text,
    write_title,
)
from harness.analysis.figures.line_ends import LINE, limits, name_ends
from harness.analysis.figures.method_styles import styles_of
from harness.analysis.figures.style import ROUND_STEPS, Style, scale_log, title_panel, write_legend
from harness.analysis.statistics import FEWEST_SEEDS, Estimate, estimate
from harness.analysis.tables.rows import MOST_COLUMNS, columns_of, select
from harness.common.metrics import NCM_METRICS, metric_name

LOSS = metric_name("loss", "total")
WIDTH, HEIGHT = 2.2, 1.9  # inches of a panel, about
MOST_BANDS = 6  # more of them in a panel hide each other, and the lines
FEWEST = 3  # epochs of a line
FEWEST_LATE = 5  # epochs in the second half, to show it once more


@dataclass(frozen=True)
class Band:
    """The estimates over n seeds after each of `epochs`, which count from 1."""

    epochs: list[int]
    estimates: list[Estimate]
    n: int

    @property
    def mean(self) -> list[float]:
        """The mean after each epoch."""
        return [e.mean for e in self.estimates]


Bands = dict[str, dict[str, Band]]  # label of a column -> label of a method -> band


@dataclass(frozen=True)
class PanelRow:
    """A row of panels.

    Attributes:
        label: of its axis.
        bands: what it shows.
        scale: what the values are multiplied by.
        is_loss: whether they are losses, which may be of any size.
        is_log: whether its axis is logarithmic.
    """

    label: str
    bands: Bands
    scale: float
    is_loss: bool = False
    is_log: bool = False


def accuracy_metric(bundle: Bundle, number: int) -> str:
    """Return the curve to show: on validation images or, if there are none, on test images."""
    part = "validation" if "validation" in data_of(bundle) else "test"
    return metric_name(part, rows_in_stage(bundle, number)[0].result)


def band(curves: list[list[float | None]]) -> Band | None:
    """Return the band over the epochs at which every curve has a value; None if there are none.

    Args:
        curves: one per seed.
    """
    by_epoch = {
        epoch: estimate([v for v in values if v is not None])
        for epoch, values in enumerate(zip(*curves, strict=False), 1)
        if None not in values
    }
    known = {epoch: e for epoch, e in by_epoch.items() if e}
    return Band([*known], [*known.values()], len(curves)) if known else None


def second_half(band: Band) -> Band:
    """Return the part of a band from the middle of its epochs on."""
    first = sum(2 * epoch < band.epochs[-1] for epoch in band.epochs)
    return Band(band.epochs[first:], band.estimates[first:], band.n)


def bands(bundle: Bundle, number: int, metric: str) -> Bands:
    """Return label of a column -> label of a method -> band."""
    labels = labels_of(bundle)
    result: Bands = {}
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


def panel_rows(bundle: Bundle, number: int) -> list[PanelRow]:
    """Return the rows of panels: losses and, if they were measured often enough, accuracies.

    Final accuracies lie close together, so the second half of their epochs is shown once more.
    """
    metric = accuracy_metric(bundle, number)
    rows = [_loss_row(bands(bundle, number, LOSS))]
    scores = bands(bundle, number, metric)
    longest = _longest(scores)
    if longest >= FEWEST:
        rows.append(PanelRow(f"{_metric_text(metric)} (%)", scores, 100))
    late = {c: {m: second_half(b) for m, b in line.items()} for c, line in scores.items()}
    if number == LAST and _longest(late) >= FEWEST_LATE:
        rows.append(PanelRow(f"{_metric_text(metric)} (%),\nsecond half", late, 100))
    return rows


def _loss_row(losses: Bands) -> PanelRow:
    """Return the row of losses: on a logarithmic axis if every panel has a place on it."""
    is_log = all(
        any(v > 0 for band in line.values() for v in band.mean) for line in losses.values()
    )
    label = "training loss (log scale)" if is_log else "training loss"
    return PanelRow(label, losses, 1, is_loss=True, is_log=is_log)


def _longest(by_column: Bands) -> int:
    """Return the largest number of epochs with a value."""
    return max((len(b.epochs) for line in by_column.values() for b in line.values()), default=0)


def _metric_text(metric: str) -> str:
    part, _, name = metric.partition("/")
    return f"{part} {'NCM accuracy' if name in NCM_METRICS else 'accuracy'}"


def _has_bands(rows: list[PanelRow]) -> bool:
    """Return whether intervals are drawn: there are some, and they do not hide the lines."""
    lines = [line for row in rows for line in row.bands.values()]
    return max(map(len, lines)) <= MOST_BANDS and any(
        b.n >= FEWEST_SEEDS for x in lines for b in x.values()
    )


def curves(bundle: Bundle, number: int) -> Figure:
    """Draw training loss and accuracy against the epoch, one column of panels per table column."""
    rows, styles = panel_rows(bundle, number), styles_of(bundle)
    columns = [c.label for c in columns_of(bundle) if c.label in rows[0].bands]
    with_bands = _has_bands(rows)
    most = max(len(line) for row in rows for line in row.bands.values())
    height = max(HEIGHT, LINE * most + 0.3)
    figure = Figure(
        figsize=(max(6.4, 2.6 + WIDTH * len(columns)), 0.7 + (height + 0.35) * len(rows)),
        layout="constrained",
    )
    # Tasks differ in how hard they are; students of one task compare.
    sharey: Literal["row", False] = False if has_many_tasks(bundle) else "row"
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharex="row", sharey=sharey)
    unnamed: dict[str, Style] = {}
    for i, (row, row_of_axes) in enumerate(zip(rows, panels, strict=True)):
        row_of_axes[0].set_ylabel(row.label)
        for axes, column in zip(row_of_axes, columns, strict=True):
            for method, band in row.bands.get(column, {}).items():
                _draw_band(axes, band, styles[method], row.scale, with_bands)
            axes.grid(color="0.92")
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=ROUND_STEPS))
            alike = [row.bands.get(column, {})] if not sharey else [*row.bands.values()]
            _limit(axes, [b for line in alike for b in line.values()], row, is_late=i == 2)
            if i == 0:
                title_panel(axes, column, WIDTH)
        if row.is_log:
            for axes in row_of_axes:
                scale_log(axes, axes.yaxis)
        if i == 1 and len(rows) > 2:
            continue  # the next row names the same ends, which lie farther apart there
        last = row.bands.get(columns[-1], {})
        ends = {m: (b.epochs[-1], row.scale * b.mean[-1]) for m, b in last.items()}
        name_ends(row_of_axes[-1], ends, styles, height)
        in_row = set().union(*row.bands.values())
        unnamed |= {m: styles[m] for m in styles if m in in_row - ends.keys()}
    if len(rows) > 1:
        panels[1, 0].set_xlim(panels[0, 0].get_xlim())
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    write_title(figure, f"{bundle.name}: training curves of {_stage_text(number)}")
    if unnamed:  # lines that the last column of panels does not have
        handles = [Line2D([], [], linestyle=s.line, **s.point) for s in unnamed.values()]
        write_legend(figure, handles, list(unnamed), most=4, handlelength=4)
    return figure


def _limit(axes: Axes, lines: list[Band], row: PanelRow, is_late: bool) -> None:
    """Set the y limits of a panel to what its lines show: no band and no method squeezes the rest.

    Args:
        axes: the panel.
        lines: those of all panels that share its axis.
        row: the row of the panel.
        is_late: whether only the last values decide.
    """
    if not lines:
        return
    means = [v for band in lines for v in band.mean]
    if row.is_log:
        positive = [v for v in means if v > 0]
        axes.set_ylim(min(positive) / 1.3, max(positive) * 1.3)
        return
    if row.is_loss:
        margin = 0.05 * (max(means) - min(means)) or max(0.5, 1e-9 * abs(means[0]))
        axes.set_ylim(min(means) - margin, max(means) + margin)
        return
    scale = row.scale
    shown = limits([e for band in lines for e in band.estimates], (0, 100), scale)
    if is_late:
        ends = limits([band.estimates[-1] for band in lines], (0, 100), scale)
        axes.set_ylim(max(ends.low, shown.low), shown.high)
        return
    least = scale * min(means)
    axes.set_ylim(max(-2, least - 0.04 * max(shown.high - least, 1)), shown.high)


def _draw_band(axes: Axes, band: Band, style: Style, scale: float, with_band: bool) -> None:
    mean = scale * np.array(band.mean)
    half = scale * np.array([e.shown_half_width or 0 for e in band.estimates])
    if with_band and band.n >= FEWEST_SEEDS:
        # A logarithm has no place for less than 0.
        low = np.where(mean > 0, np.maximum(mean - half, 1e-3 * mean), mean - half)
        axes.fill_between(band.epochs, low, mean + half, color=style.color, alpha=0.12, linewidth=0)
    axes.plot(
        band.epochs,
        mean,
        **style.point,
        linestyle=style.line,
        linewidth=1.1,
        markersize=3.5,
        markevery=max(1, len(band.epochs) // 6),
    )


def _stage_text(number: int) -> str:
    return f"stage {number}{' and methods without stages' if number == LAST else ''}"


def _lines_text(rows: list[PanelRow], counts: set[int]) -> str:
    """Return what lines and bands show, or why there are no bands."""
    if counts == {1} or _has_bands(rows):
        return intervals_text(counts, "lines: means; bands")
    few = f"a band needs {FEWEST_SEEDS} seeds"
    why = few if max(counts) < FEWEST_SEEDS else "so many bands would hide each other"
    return f"lines: means over {seeds_text(counts)}; {why}"


def texts(bundle: Bundle, number: int) -> Texts:
    """Return the texts of a stage's figure."""
    rows, metric = panel_rows(bundle, number), accuracy_metric(bundle, number)
    columns = [c.label for c in columns_of(bundle) if c.label in rows[0].bands]
    lines = [band for row in rows for line in row.bands.values() for band in line.values()]
    counts = {band.n for band in lines}
    methods = list(dict.fromkeys(m for row in rows for line in row.bands.values() for m in line))
    names = listed(methods) if len(methods) <= 6 else f"{len(methods)} methods"
    what = "loss" if len(rows) == 1 else f"loss and {_metric_text(metric)}"
    centre = f"NCM centres from the {centers(bundle)} images"
    sparse = f"{_metric_text(metric)} was measured too rarely for a curve"
    return Texts(
        f"Line charts of training {what} against the epoch for {names}, for {listed(columns)}.",
        caption_of(
            _lines_text(rows, counts),
            "training loss: each method's own weighted sum, in nats, so that only the shape of a "
            "line compares",
            sparse if len(rows) == 1 else "",
            "a number beside a name is an end outside the panel" if len(rows) > 2 else "",
            data_text(bundle, "train", metric.partition("/")[0]),
            f"protocol {bundle.protocol}",
            centre if metric.partition("/")[2] in NCM_METRICS else "",
        ),
    )


def _missing(bundle: Bundle, number: int) -> str | None:
    if not any(row.takes_steps for row in rows_in_stage(bundle, number)):
        return ""
    if len(columns_of(bundle)) > MOST_COLUMNS and has_many_tasks(bundle):
        return f"it has a panel a task, and this grid has more than {MOST_COLUMNS}"
    return None if bands(bundle, number, LOSS) else OLD_BUNDLE


FIGURES = tuple(
    Kind(
        f"curves-stage{n}",
        partial(curves, number=n),
        partial(texts, number=n),
        partial(_missing, number=n),
    )
    for n in range(1, LAST + 1)
)
