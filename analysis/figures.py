"""Figures of a bundle, readable in black and white: methods differ by marker and line style.

Drawn without pyplot, so nothing is left behind in this process, and with matplotlib's defaults
whatever else it has set.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from analysis.collect import Bundle
from analysis.plotted import (
    FIGURES,
    Band,
    NcmPoint,
    accuracy_metric,
    bands,
    confusion_matrix,
    data_of,
    drawable,
    labels_of,
    most_confused,
    ncm_metric,
    ncm_points,
    rank_correlation,
    row_percent,
    rows_in_stage,
    second_half,
)
from analysis.tables import cell_estimate, rows_of, students_of

SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a data set's name may hold a dollar sign
    "figure.dpi": 150,
}
# Confusion matrices of more classes are shown without numbers.
MOST_NUMBERED = 20
LONGEST_NAME = 16
LETTERS_PER_INCH = 12  # of a title


@dataclass(frozen=True)
class Style:
    """How one method looks in every figure."""

    marker: str
    line: Literal["-", "--", "-.", ":"]
    grey: str
    face: str


STYLES = (
    Style("o", "-", "0.0", "0.0"),
    Style("s", "--", "0.4", "1.0"),
    Style("D", "-.", "0.5", "0.5"),
    Style("^", ":", "0.0", "1.0"),
    Style("v", "-", "0.6", "0.6"),
    Style("P", "--", "0.0", "0.0"),
)
STUDENT_MARKERS = "osD^vP*X"
METHOD_FACES = ("0.0", "1.0", "0.65", "0.85")


def styles_of(bundle: Bundle) -> dict[str, Style]:
    """Method, as the table calls it -> its style."""
    labels = labels_of(bundle).values()
    return {label: STYLES[i % len(STYLES)] for i, label in enumerate(labels)}


def seeds(counts: Iterable[int]) -> str:
    """'n = 3 seeds', or every number that occurs."""
    numbers = sorted(set(counts))
    return f"n = {' or '.join(map(str, numbers))} seed{'' if numbers == [1] else 's'}"


def images(bundle: Bundle, part: str) -> str:
    """'1000 test images'."""
    return f"{data_of(bundle)[part]} {'training' if part == 'train' else part} images"


def protocol(bundle: Bundle) -> str:
    which = {
        "selected": "epoch selected on validation",
        "last": "last epoch",
        "best_on_test": "best epoch on test (a leak)",
    }[bundle.reported]
    return f"protocol {bundle.protocol}, {which}"


def centers(bundle: Bundle) -> str:
    """Which images make the class centres of the NCM accuracy."""
    return {"train": "training", "eval": "evaluated"}[ncm_metric(bundle).split("_")[1]]


def title(figure: Figure, bundle: Bundle, what: str, data: str, *details: str) -> None:
    """What is shown, of which data, then details; a long line is wrapped to the figure's width."""
    lines = [f"{bundle.name}: {what}", f"data set {data_of(bundle)['name']}, {data}", *details]
    width = int(LETTERS_PER_INCH * figure.get_figwidth())
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    figure.suptitle("\n".join(wrapped), fontsize=10)


def accuracy(bundle: Bundle) -> Figure:
    """Test accuracy of each student by each method, with 95 % t-intervals over seeds."""
    students, styles, labels = students_of(bundle), styles_of(bundle), labels_of(bundle)
    rows = rows_in_stage(bundle, 2)
    figure = Figure(figsize=(max(7.2, 1.3 * len(students)), 4.4), layout="constrained")
    axes = figure.subplots()
    counts = set()
    for i, row in enumerate(rows):
        style = styles[labels[row.method]]
        offset = (i - (len(rows) - 1) / 2) * 0.14
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
    teacher = [r for r in rows_of(bundle) if r.stage == "teacher"]
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


def curves(bundle: Bundle, stage: int) -> Figure:
    """Training loss and accuracy against the epoch, a column a student. Final accuracies lie close
    together, so the second half of their epochs is shown once more."""
    metric, styles = accuracy_metric(bundle, stage), styles_of(bundle)
    part = metric.partition("/")[0]
    form = "NCM accuracy" if stage == 1 else "accuracy"
    losses, scores = bands(bundle, stage, "loss/total"), bands(bundle, stage, metric)
    rows = [
        (losses, 1, "training loss, each method's own\n(weighted nats, log scale)"),
        (scores, 100, f"{part} {form} (%)"),
    ]
    if stage == 2:
        late = {s: {m: second_half(b) for m, b in found.items()} for s, found in scores.items()}
        rows.append((late, 100, f"{part} {form} (%),\nsecond half of the epochs"))
    students = [s for s in students_of(bundle) if s in losses]
    figure = Figure(
        figsize=(max(6.4, 1.0 + 2.5 * len(students)), 1.6 + 2.4 * len(rows)), layout="constrained"
    )
    panels = figure.subplots(len(rows), len(students), squeeze=False, sharex="row", sharey="row")
    shown: dict[str, Style] = {}
    counts = set()
    for (found, scale, label), line in zip(rows, panels, strict=True):
        line[0].set_ylabel(label)
        for axes, student in zip(line, students, strict=True):
            for method, band in found.get(student, {}).items():
                shown[method] = styles[method]
                counts.add(band.n)
                _draw_band(axes, band, styles[method], scale)
            axes.grid(color="0.92")
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    panels[1, 0].set_xlim(panels[0, 0].get_xlim())
    for axes, student in zip(panels[0], students, strict=True):
        axes.set_title(student)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        wide = high > 10 * low
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    what = "stage 1" if stage == 1 else "stage 2, and methods without stages"
    band_is = "no band" if counts == {1} else "line: mean, band: lowest to highest"
    details = [f"{seeds(counts)} ({band_is})", f"protocol {bundle.protocol}"]
    if stage == 1:
        details[1] += f", NCM centres from the {centers(bundle)} images"
    sizes = f"{images(bundle, 'train')}, {images(bundle, part)}"
    title(figure, bundle, f"training curves, {what}", sizes, *details)
    handles = [
        Line2D([], [], color=s.grey, linestyle=s.line, marker=s.marker, mfc=s.face, label=label)
        for label, s in shown.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=4)
    return figure


def _draw_band(axes: Axes, band: Band, style: Style, scale: float) -> None:
    low, high, mean = (scale * np.array(v) for v in (band.low, band.high, band.mean))
    if band.n > 1:
        axes.fill_between(band.epochs, low, high, color=style.grey, alpha=0.15, linewidth=0)
    axes.plot(
        band.epochs,
        mean,
        color=style.grey,
        linestyle=style.line,
        linewidth=1.2,
        marker=style.marker,
        markersize=4,
        markerfacecolor=style.face,
        markevery=max(1, len(band.epochs) // 6),
    )


def ncm(bundle: Bundle) -> Figure:
    """NCM accuracy after stage 1 against the final accuracy, a point a student and seed."""
    points = ncm_points(bundle)
    methods = list(dict.fromkeys(p.method for p in points))
    students = list(dict.fromkeys(p.student for p in points))
    marker = {s: STUDENT_MARKERS[i % len(STUDENT_MARKERS)] for i, s in enumerate(students)}
    face = {m: METHOD_FACES[i % len(METHOD_FACES)] for i, m in enumerate(methods)}
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    for p in points:
        x, y = 100 * p.after_stage1, 100 * p.final
        axes.plot(
            x, y, marker[p.student], color="0.0", markerfacecolor=face[p.method], markersize=7
        )
    axes.margins(0.08)
    axes.autoscale_view()
    axes.autoscale(False)
    axes.axline((0, 0), slope=1, color="0.6", linestyle="--", linewidth=1, zorder=0)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    in_view = max(left, bottom) < min(right, top)
    axes.set_xlabel(
        f"test NCM accuracy after stage 1, centres from the {centers(bundle)} images (%)"
    )
    axes.set_ylabel("test accuracy after stage 2 (%)")
    axes.grid(color="0.92")
    n_seeds = {len({p.seed for p in points if p.student == s}) for s in students}
    title(
        figure,
        bundle,
        "NCM accuracy after stage 1 and final accuracy",
        images(bundle, "test"),
        f"a point a method, student and seed (whose teacher they share), {seeds(n_seeds)}",
        protocol(bundle),
    )
    line = Line2D([], [], color="0.6", linestyle="--", linewidth=1)
    line.set_label("equal accuracies" if in_view else "equal accuracies (out of view)")
    left_column = [*(_sample("o", face[m], _with_correlation(m, points)) for m in methods), line]
    right_column = [_sample(marker[s], "0.65", s) for s in students]
    for column in (left_column, right_column):  # of equal length, so that each stays a column
        missing = max(len(left_column), len(right_column)) - len(column)
        column += [_sample("", "none", " ") for _ in range(missing)]
    handles = left_column + right_column
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _with_correlation(method: str, points: list[NcmPoint]) -> str:
    own = [p for p in points if p.method == method]
    value = rank_correlation(own)
    label = f"{method}, n = {len(own)} points"
    return label if value is None else f"{label}, Spearman's rank correlation {value:.2f}"


def _sample(marker: str, face: str, label: str) -> Line2D:
    return Line2D([], [], color="0.0", linestyle="", marker=marker, mfc=face, label=label)


def confusion(bundle: Bundle) -> Figure:
    """Row-normalised confusion matrix of one student, summed over seeds."""
    matrix = confusion_matrix(bundle)
    assert matrix is not None, "asked for by `drawable` alone"
    percent, size = row_percent(matrix.counts), len(matrix.counts)
    names = bundle.class_names or [str(i) for i in range(size)]
    names = [n if len(n) <= LONGEST_NAME else f"{n[: LONGEST_NAME - 1]}…" for n in names]
    numbered = size <= MOST_NUMBERED
    figure = Figure(figsize=(7.0 if numbered else 11.0, 6.6), layout="constrained")
    axes, side = figure.subplots(1, 2, width_ratios=(1, 1e-6 if numbered else 0.5))
    side.axis("off")
    # A square root: the few per cent beside the diagonal stay visible.
    image = axes.imshow(percent, cmap="Greys", norm=PowerNorm(0.5, 0, 100))
    share = "share of the class's test images (%, root scale)"
    figure.colorbar(image, ax=axes, shrink=0.8, label=share)
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
                fontsize=8 if size <= 10 else 6,
            )
    else:
        pairs = [f"{names[i]} → {names[j]}: {n}" for i, j, n in most_confused(matrix.counts)]
        text = "\n".join(["most confused", "(class → predicted: images)", "", *pairs])
        side.text(0, 0.5, text, va="center", linespacing=1.5, fontsize=8, in_layout=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    title(
        figure,
        bundle,
        f"confusion matrix of {matrix.student} by {matrix.method}",
        images(bundle, "test"),
        f"% of the row, summed over {seeds([matrix.n])}",
        "the file's last student and "
        + ("first ReFilled method" if "ReFilled" in matrix.method else "last method"),
        protocol(bundle),
    )
    return figure


DRAW: dict[str, Callable[[Bundle], Figure]] = {
    "accuracy": accuracy,
    "curves-stage1": lambda bundle: curves(bundle, 1),
    "curves-stage2": lambda bundle: curves(bundle, 2),
    "ncm": ncm,
    "confusion": confusion,
}


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """matplotlib's defaults and SETTINGS; what was set before comes back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def pixels(figure: Figure) -> Image.Image:
    """One byte a pixel: there is no colour to keep."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L")


def draw_all(bundle: Bundle, folder: Path) -> list[Path]:
    """Draw what the bundle holds the numbers for (`plotted.drawable`) as folder/NAME.png. The same
    bundle gives the same bytes; a figure that it has no numbers for is removed from the folder."""
    names, _ = drawable(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        path = folder / f"{name}.png"
        if name not in names:
            path.unlink(missing_ok=True)
            continue
        with default_settings():
            pixels(DRAW[name](bundle)).save(path, optimize=True)
    return [folder / f"{name}.png" for name in names]
