"""NCM accuracy after a stage against the final accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.bundle import Bundle
from harness.analysis.figures.base import (
    LAST,
    MANY_TASKS,
    Kind,
    Texts,
    caption_of,
    centers,
    data_text,
    has_many_tasks,
    labels_of,
    listed,
    protocol_text,
    rows_in_stage,
    seeds_text,
    write_title,
)
from harness.analysis.figures.method_styles import styles_of
from harness.analysis.figures.style import title_panel, write_legend
from harness.analysis.tables.rows import columns_of, select
from harness.common.metrics import NCM_METRICS

MOST_IN_A_ROW = 4  # panels
WIDTH = 1.8  # inches of a panel, about
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
    from scipy import stats  # takes half a second, which those who read texts need not wait

    return float(stats.spearmanr(before, after).statistic)


def ncm(bundle: Bundle) -> Figure:
    """Draw NCM accuracy after stage 1 against final accuracy, one panel per student."""
    points, styles = ncm_points(bundle), styles_of(bundle)
    methods = list(dict.fromkeys(p.method for p in points))
    students = list(dict.fromkeys(p.student for p in points))
    n_columns = min(len(students), MOST_IN_A_ROW)
    n_rows = -(-len(students) // n_columns)
    figure = Figure(figsize=(max(5.0, WIDTH * n_columns), 0.9 + 2.3 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(students):
            axes.axis("off")
            continue
        for method in methods:
            own = [p for p in points if (p.student, p.method) == (students[i], method)]
            axes.plot(
                [100 * p.after_stage1 for p in own],
                [100 * p.final for p in own],
                **styles[method].point,
                linestyle="",
                markersize=5,
                markeredgewidth=0.8,
                label=method,
            )
        title_panel(axes, students[i], WIDTH)
        axes.set_xlabel("NCM after stage 1 (%)")
        axes.set_ylabel("after stage 2 (%)" if i % n_columns == 0 else "")
        axes.grid(color="0.92")
    first = grid.flat[0]
    first.margins(0.1)
    first.autoscale_view()
    for axes in grid.flat[: len(students)]:
        axes.autoscale(False)
        axes.axline((0, 0), slope=1, color="0.6", linestyle="--", linewidth=0.8, zorder=0)
    write_title(figure, f"{bundle.name}: NCM after stage 1, final accuracy")
    samples = [Line2D([], [], linestyle="", markersize=5, **styles[m].point) for m in methods]
    line = Line2D([], [], color="0.6", linestyle="--", linewidth=0.8)
    write_legend(figure, [*samples, line], [*methods, "equal accuracies"], most=3)
    return figure


def texts(bundle: Bundle) -> Texts:
    """Return the texts of the figure."""
    points = ncm_points(bundle)
    methods = list(dict.fromkeys(p.method for p in points))
    students = list(dict.fromkeys(p.student for p in points))
    n, n_seeds = len(students), {len({p.seed for p in points if p.student == s}) for s in students}
    correlations = []
    for method in methods:
        own = [p for p in points if p.method == method]
        if (value := rank_correlation(own)) is not None:
            correlations.append(f"{value:.2f} for {method} (n = {len(own)} points)")
    return Texts(
        f"Scatter plot of final test accuracy against the NCM accuracy after stage 1 for "
        f"{listed(methods)}{f', one panel for each of {n} students' if n > 1 else ''}.",
        caption_of(
            f"one point per method, student and seed, {seeds_text(n_seeds)}; the points of a seed "
            "share their teacher",
            f"NCM accuracy with centres from the {centers(bundle)} images",
            f"Spearman's rank correlation: {listed(correlations)}" if correlations else "",
            data_text(bundle, "test"),
            protocol_text(bundle),
        ),
    )


def _missing(bundle: Bundle) -> str | None:
    if not ncm_points(bundle):
        return ""
    return MANY_TASKS if has_many_tasks(bundle) else None


FIGURES = (Kind("ncm", ncm, texts, _missing),)
