"""Figures of a tuning study: its history, its parameters one by one and in pairs, their importance.

The metric is an accuracy, shown in per cent. A parameter's axis is the range that was searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from harness.analysis.figures.base import write_title
from harness.analysis.figures.style import (
    COLORS,
    ROUND_STEPS,
    log_ticks,
    stagger,
    tick_text,
    write_legend,
)

COLOR_MAP = "cividis"  # its lightness grows evenly: the same order in grey
MOST_TICKS = 6  # of a parameter's axis
SLICE, CONTOUR = 2.6, 2.0  # inches, about: a panel's width
ROOM = (-0.06, 1.06)  # around a range from 0 to 1
LEVELS = 8
BLACK, BLUE, VERMILION = COLORS[:3]
PRUNED = "pruned trial (no value)"


@dataclass(frozen=True)
class SearchAxis:
    """The search range of a parameter as an axis from 0 to 1, with ticks (place, text)."""

    name: str
    distribution: BaseDistribution

    @property
    def label(self) -> str:
        return f"{self.name}{chr(10) + '(log scale)' if self._is_log else ''}"

    @property
    def _is_log(self) -> bool:
        return bool(getattr(self.distribution, "log", False))

    @property
    def is_choice(self) -> bool:
        return isinstance(self.distribution, CategoricalDistribution)

    def place(self, value: Any) -> float:
        """0 at the range's lower end, 1 at its upper end; choices at equal distances."""
        d: Any = self.distribution
        if self.is_choice:
            return float(d.to_internal_repr(value) / max(1, len(d.choices) - 1))
        low, high, x = np.log([d.low, d.high, value]) if d.log else (d.low, d.high, value)
        return float((x - low) / (high - low)) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        d: Any = self.distribution
        if self.is_choice:
            return [(self.place(choice), str(choice)) for choice in d.choices]
        if d.log:
            values = log_ticks(d.low, d.high, MOST_TICKS)
        else:
            found = MaxNLocator(MOST_TICKS - 1, steps=ROUND_STEPS).tick_values(d.low, d.high)
            values = [float(v) for v in found if d.low <= v <= d.high]
        return [(self.place(value), tick_text(value)) for value in values]


@dataclass(frozen=True)
class StudyTrials:
    """One method's trials. metric: in words. value: of a finished trial, in per cent."""

    study: optuna.Study
    metric: str

    @property
    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    @property
    def pruned(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))

    @property
    def values(self) -> list[float]:
        return [100 * t.value for t in self.finished if t.value is not None]

    @property
    def ranges(self) -> list[SearchAxis]:
        return [SearchAxis(n, d) for n, d in self.study.trials[0].distributions.items()]

    def places(self, trials: list[FrozenTrial], of: SearchAxis) -> list[float]:
        return [of.place(t.params[of.name]) for t in trials]

    @property
    def axis(self) -> str:
        return f"{self.metric} (%)"


def title_of(study: StudyTrials, what: str) -> tuple[str, str]:
    counts = f"{len(study.finished)} finished and {len(study.pruned)} pruned trials"
    return f"{study.study.study_name}: {what}", f"{study.metric}, {counts}"


def history(study: StudyTrials) -> Figure:
    """Each finished trial's value and the best so far; pruned trials as marks at the bottom."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    numbers = [t.number for t in study.finished]
    larger = study.study.direction == optuna.study.StudyDirection.MAXIMIZE
    best = (np.maximum if larger else np.minimum).accumulate(study.values)
    ends = [*numbers, len(study.study.trials) - 1]
    axes.step(ends, [*best, *best[-1:]], where="post", color=VERMILION, label="best so far")
    axes.plot(numbers, study.values, "o", color=BLUE, label="finished trial")
    axes.plot(
        [t.number for t in study.pruned],
        [0.02] * len(study.pruned),
        "|",
        color="0.4",
        transform=axes.get_xaxis_transform(),
        label=PRUNED,
    )
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=ROUND_STEPS))
    axes.margins(y=0.12)
    axes.set_xlabel("trial")
    axes.set_ylabel(study.axis)
    axes.grid(color="0.92")
    write_title(figure, *title_of(study, "trials in their order"))
    write_legend(figure, *axes.get_legend_handles_labels(), most=3)
    return figure


def slices(study: StudyTrials) -> Figure:
    """Value against each parameter alone, a panel each; a later trial is darker."""
    ranges = study.ranges
    beside = min(len(ranges), 3)
    n_rows = -(-len(ranges) // beside)
    figure = Figure(
        figsize=(max(5.4, 1.4 + 3.0 * beside), 1.2 + 2.9 * n_rows), layout="constrained"
    )
    panels = figure.subplots(n_rows, beside, squeeze=False, sharey=True)
    numbers = [t.number for t in study.finished]
    norm, later_is_darker = Normalize(0, max(1, len(study.study.trials) - 1)), f"{COLOR_MAP}_r"
    for i, axes in enumerate(panels.flat):
        if i >= len(ranges):
            axes.axis("off")
            continue
        axes.scatter(
            study.places(study.finished, ranges[i]),
            study.values,
            c=numbers,
            cmap=later_is_darker,
            norm=norm,
            edgecolors=BLACK,
            linewidths=0.8,
            s=36,
        )
        _range_across(axes, ranges[i], SLICE)
        axes.grid(color="0.92")
        if i % beside == 0:
            axes.set_ylabel(study.axis)
    bar = ScalarMappable(norm, later_is_darker)
    figure.colorbar(bar, ax=panels, label="trial", shrink=0.8)
    write_title(figure, *title_of(study, "finished trials by each parameter"))
    return figure


def importance(study: StudyTrials) -> Figure:
    """Optuna's fANOVA importance of each parameter, the largest on top."""
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study.study, evaluator=evaluator)
    names, shares = list(found)[::-1], [100 * v for v in found.values()][::-1]
    figure = Figure(figsize=(7.2, 1.6 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, shares, color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.0f}" for share in shares], padding=3)
    axes.set_xlim(0, 108)  # room for the largest one's number
    axes.set_xlabel("importance by fANOVA (% of what all parameters explain)")
    axes.grid(axis="x", color="0.92")
    write_title(figure, *title_of(study, "importance of each parameter"))
    return figure


def contours(study: StudyTrials) -> Figure:
    """Value over each pair of parameters, linear between finished trials and left out beyond them
    and between choices; pruned trials as crosses."""
    ranges = study.ranges
    size = len(ranges) - 1
    figure = Figure(figsize=(max(5.4, 1.8 + 2.5 * size), 1.6 + 2.3 * size), layout="constrained")
    panels = figure.subplots(size, size, squeeze=False)
    low, high = min(study.values), max(study.values)
    norm = Normalize(low, high if high > low else low + 1)
    for i, j, axes in _cells(panels):
        if j > i:
            axes.axis("off")
            continue
        across, up = ranges[j], ranges[i + 1]
        xs, ys = study.places(study.finished, across), study.places(study.finished, up)
        if not (across.is_choice or up.is_choice):  # between two choices there is nothing
            _fill(axes, xs, ys, study.values, norm)
        axes.plot(
            study.places(study.pruned, across),
            study.places(study.pruned, up),
            "x",
            color="0.4",
            markersize=4,
        )
        axes.scatter(
            xs, ys, c=study.values, cmap=COLOR_MAP, norm=norm, edgecolors=BLACK, s=40, zorder=3
        )
        _range_across(axes, across, CONTOUR, named=i == size - 1)
        _range_up(axes, up, named=j == 0)
    bar = ScalarMappable(norm, COLOR_MAP)
    figure.colorbar(bar, ax=panels, label=study.axis, shrink=0.8)
    write_title(
        figure, *title_of(study, "pairs of parameters"), "surface: linear between finished trials"
    )
    samples = [
        Line2D([], [], linestyle="", marker="o", color=BLACK, markerfacecolor="0.6"),
        Line2D([], [], linestyle="", marker="x", color="0.4"),
    ]
    write_legend(figure, samples, ["finished trial", PRUNED], most=2)
    return figure


# What a file is called -> its figure.
KINDS: dict[str, Callable[[StudyTrials], Figure]] = {
    "history": history,
    "slice": slices,
    "importance": importance,
    "contour": contours,
}


def drawable(study: StudyTrials) -> list[str]:
    """KINDS that there are enough trials and parameters for."""
    enough = {
        "history": len(study.finished) > 0,
        "slice": len(study.finished) > 0,
        "importance": len(set(study.values)) > 1,
        "contour": len(study.finished) > 0 and len(study.ranges) > 1,
    }
    return [kind for kind in KINDS if enough[kind]]


def _cells(panels: np.ndarray) -> Iterator[tuple[int, int, Axes]]:
    for (i, j), axes in np.ndenumerate(panels):
        yield i, j, axes


def _fill(
    axes: Axes, xs: list[float], ys: list[float], values: list[float], norm: Normalize
) -> None:
    """Nothing where the points span no area."""
    points = np.unique(np.array([xs, ys]).T, axis=0)
    if np.linalg.matrix_rank(points - points[0], tol=1e-6) < 2:
        return
    levels = np.linspace(float(norm.vmin or 0), float(norm.vmax or 0), LEVELS + 1)
    axes.tricontourf(
        Triangulation(xs, ys), values, levels=levels, cmap=COLOR_MAP, norm=norm, extend="both"
    )


def _range_across(axes: Axes, of: SearchAxis, inches: float, named: bool = True) -> None:
    """The parameter on x. named: else its ticks alone; their texts stand at another panel."""
    axes.set_xlim(*ROOM)
    stagger(axes, *_ticks(of, named), inches)
    axes.set_xlabel(of.label if named else "")


def _range_up(axes: Axes, of: SearchAxis, named: bool) -> None:
    axes.set_ylim(*ROOM)
    axes.set_yticks(*_ticks(of, named))
    axes.set_ylabel(of.label if named else "")


def _ticks(of: SearchAxis, named: bool) -> tuple[list[float], list[str]]:
    return [place for place, _ in of.ticks], [text if named else "" for _, text in of.ticks]
