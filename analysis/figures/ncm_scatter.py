"""NCM accuracy after a stage against the final accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import FillStyleType
from scipy import stats

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    MANY_TASKS,
    Kind,
    centers,
    has_many_tasks,
    images_text,
    labels_of,
    protocol_text,
    rows_in_stage,
    seeds_text,
    styles_of,
    write_title,
)
from harness.analysis.figures.style import WHITE, write_legend
from harness.analysis.tables.rows import columns_of, select
from harness.common.metrics import NCM_METRICS

STUDENT_MARKERS = "osD^vP*X"
METHOD_FILLS: tuple[FillStyleType, ...] = ("full", "none", "left", "bottom", "right", "top")
FEWEST_FOR_CORRELATION = 10  # fewer points say nothing about a rank correlation


@dataclass(frozen=True)
class NcmPoint:
    """Test accuracies of one student and seed, as fractions."""

    method: str
    student: str
    seed: int
    after_stage1: float
    final: float


def ncm_points(bundle: Bundle) -> list[NcmPoint]:
    """Return one point per student and seed, for each method with such a first stage."""
    labels, final = labels_of(bundle), {r.method: r for r in rows_in_stage(bundle, LAST)}
    points = []
    for first in rows_in_stage(bundle, 1):
        if first.result not in NCM_METRICS:
            continue
        for column in columns_of(bundle):
            before, after = (
                {
                    number.seed: number.accuracy(bundle.reported)
                    for number in select(bundle, r, column)
                }
                for r in (first, final[first.method])
            )
            points += [
                NcmPoint(labels[first.method], column.label, seed, before[seed], after[seed])
                for seed in before
                if seed in after
            ]
    return points


def rank_correlation(points: list[NcmPoint]) -> float | None:
    """Return Spearman's rank correlation of both accuracies.

    It is None for too few points, or if either accuracy is constant.
    """
    before, after = [p.after_stage1 for p in points], [p.final for p in points]
    if len(points) < FEWEST_FOR_CORRELATION or len(set(before)) == 1 or len(set(after)) == 1:
        return None
    return float(stats.spearmanr(before, after).statistic)


def ncm(bundle: Bundle) -> Figure:
    """Draw NCM accuracy after stage 1 against final accuracy, one point per student and seed."""
    points = ncm_points(bundle)
    methods = list(dict.fromkeys(p.method for p in points))
    students = list(dict.fromkeys(p.student for p in points))
    marker = {s: STUDENT_MARKERS[i % len(STUDENT_MARKERS)] for i, s in enumerate(students)}
    styles = styles_of(bundle)
    looks: dict[str, Any] = {
        m: {
            "color": styles[m].color,
            "fillstyle": METHOD_FILLS[i % len(METHOD_FILLS)],
            "markerfacecoloralt": WHITE,
        }
        for i, m in enumerate(methods)
    }
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    for p in points:
        x, y = 100 * p.after_stage1, 100 * p.final
        axes.plot(x, y, marker[p.student], **looks[p.method], markersize=7)
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
    write_title(
        figure,
        bundle,
        "NCM accuracy after stage 1 and final accuracy",
        images_text(bundle, "test"),
        f"one point per method, student and seed, {seeds_text(n_seeds)}",
        "the points of a seed share their teacher",
        protocol_text(bundle),
    )
    line = Line2D([], [], color="0.6", linestyle="--", linewidth=1)
    line.set_label("equal accuracies" if in_view else "equal accuracies (out of view)")
    left_column = [*(_sample("o", _legend_text(m, points), **looks[m]) for m in methods), line]
    right_column = [_sample(marker[s], s, color="0.4") for s in students]
    for column in (left_column, right_column):  # equal lengths, so that each stays a column
        missing = max(len(left_column), len(right_column)) - len(column)
        column += [_sample("", " ") for _ in range(missing)]
    handles = left_column + right_column
    write_legend(figure, handles, [str(h.get_label()) for h in handles], most=2)
    return figure


def _legend_text(method: str, points: list[NcmPoint]) -> str:
    points = [p for p in points if p.method == method]
    value = rank_correlation(points)
    label = f"{method}, n = {len(points)} points"
    return label if value is None else f"{label}, Spearman's rank correlation {value:.2f}"


def _sample(marker: str, label: str, **look: Any) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, label=label, **look)


def _missing(bundle: Bundle) -> str | None:
    if not ncm_points(bundle):
        return ""
    return MANY_TASKS if has_many_tasks(bundle) else None


FIGURES = (Kind("ncm", ncm, _missing),)
