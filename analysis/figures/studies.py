"""Figures of a tuning study: its history, its parameters one by one and in pairs, their importance.

The metric is an accuracy, shown in per cent. A parameter's axis is the range that was searched.
Optuna's own plots are not used: they leave out pruned trials and the searched ranges, interpolate
between choices and beyond the trials, and set pyplot's style for the whole process.
"""

from __future__ import annotations

from collections.abc import Callable
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

COLOR_MAP = "cividis"  # its lightness increases evenly, so that the order is kept in grey
MOST_TICKS = 6  # of a parameter's axis
SLICE, CONTOUR = 2.6, 2.0  # inches, approximate width of a panel
LIMITS = (-0.06, 1.06)  # of an axis from 0 to 1
LEVELS = 8
BLACK, BLUE, VERMILION = COLORS[:3]
PRUNED = "pruned trial (no value)"


@dataclass(frozen=True)
class SearchAxis:
    """The search range of a parameter as an axis from 0 to 1."""

    name: str
    distribution: BaseDistribution

    @property
    def label(self) -> str:
        """The parameter's name, and its scale if that is logarithmic."""
        is_log = getattr(self.distribution, "log", False)
        return f"{self.name}\n(log scale)" if is_log else self.name

    @property
    def is_choice(self) -> bool:
        """True if the parameter takes one of several values without an order."""
        return isinstance(self.distribution, CategoricalDistribution)

    def place(self, value: Any) -> float:
        """Return a value's place, from 0 at the lower end to 1; choices are equidistant."""
        d: Any = self.distribution
        if self.is_choice:
            return float(d.to_internal_repr(value) / max(1, len(d.choices) - 1))
        low, high, x = np.log([d.low, d.high, value]) if d.log else (d.low, d.high, value)
        return float((x - low) / (high - low)) if high > low else 0.5

    def places(self, trials: list[FrozenTrial]) -> list[float]:
        """Return the place of each trial."""
        return [self.place(trial.params[self.name]) for trial in trials]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place, text) of each tick."""
        d: Any = self.distribution
        if self.is_choice:
            return [(self.place(choice), str(choice)) for choice in d.choices]
        if d.log:
            values = log_ticks(d.low, d.high, MOST_TICKS)
        else:
            rounded = MaxNLocator(MOST_TICKS - 1, steps=ROUND_STEPS).tick_values(d.low, d.high)
            values = [float(v) for v in rounded if d.low <= v <= d.high]
        return [(self.place(value), tick_text(value)) for value in values]

    def draw_on_x(self, axes: Axes, inches: float, with_labels: bool = True) -> None:
        """Make this the x axis of a panel, without labels where another panel shows them."""
        axes.set_xlim(*LIMITS)
        stagger(axes, *self._ticks(with_labels), inches)
        axes.set_xlabel(self.label if with_labels else "")

    def draw_on_y(self, axes: Axes, with_labels: bool) -> None:
        """Make this the y axis of a panel, without labels where another panel shows them."""
        axes.set_ylim(*LIMITS)
        axes.set_yticks(*self._ticks(with_labels))
        axes.set_ylabel(self.label if with_labels else "")

    def _ticks(self, with_labels: bool) -> tuple[list[float], list[str]]:
        ticks = self.ticks
        return [place for place, _ in ticks], [text if with_labels else "" for _, text in ticks]


@dataclass(frozen=True)
class StudyTrials:
    """The trials of one method; `metric` is what was tuned, in words."""

    study: optuna.Study
    metric: str

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that were trained to their end."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    @property
    def pruned(self) -> list[FrozenTrial]:
        """The trials that were stopped early."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))

    @property
    def values(self) -> list[float]:
        """The values of the finished trials in per cent."""
        return [100 * t.value for t in self.finished if t.value is not None]

    @property
    def search_axes(self) -> list[SearchAxis]:
        """The searched parameters."""
        return [SearchAxis(n, d) for n, d in self.study.trials[0].distributions.items()]

    @property
    def value_label(self) -> str:
        """The axis label of the values."""
        return f"{self.metric} (%)"

    def title(self, subject: str) -> str:
        """Return the title of a figure: the study, the subject, and the number of trials."""
        counts = f"{len(self.finished)} finished, {len(self.pruned)} pruned trials"
        return f"{self.study.study_name}: {subject} ({counts})"


def history(study: StudyTrials) -> Figure:
    """Draw each finished trial's value and the best so far, with marks for pruned trials."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    numbers = [t.number for t in study.finished]
    maximize = study.study.direction == optuna.study.StudyDirection.MAXIMIZE
    best = (np.maximum if maximize else np.minimum).accumulate(study.values)
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
    axes.set_ylabel(study.value_label)
    axes.grid(color="0.92")
    write_title(figure, study.title("trials in their order"))
    write_legend(figure, *axes.get_legend_handles_labels(), most=3)
    return figure


def slices(study: StudyTrials) -> Figure:
    """Draw the value against each parameter, one panel each; later trials are darker."""
    parameters = study.search_axes
    n_columns = min(len(parameters), 3)
    n_rows = -(-len(parameters) // n_columns)
    size = (max(5.4, 1.4 + 3.0 * n_columns), 1.2 + 2.9 * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    numbers = [t.number for t in study.finished]
    norm, later_is_darker = Normalize(0, max(1, len(study.study.trials) - 1)), f"{COLOR_MAP}_r"
    for i, axes in enumerate(panels.flat):
        if i >= len(parameters):
            axes.axis("off")
            continue
        axes.scatter(
            parameters[i].places(study.finished),
            study.values,
            c=numbers,
            cmap=later_is_darker,
            norm=norm,
            edgecolors=BLACK,
            linewidths=0.8,
            s=36,
        )
        parameters[i].draw_on_x(axes, SLICE)
        axes.grid(color="0.92")
        if i % n_columns == 0:
            axes.set_ylabel(study.value_label)
    bar = ScalarMappable(norm, later_is_darker)
    figure.colorbar(bar, ax=panels, label="trial", shrink=0.8)
    write_title(figure, study.title("finished trials by each parameter"))
    return figure


def importance(study: StudyTrials) -> Figure:
    """Draw Optuna's fANOVA importance of each parameter, the largest on top."""
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importances = optuna.importance.get_param_importances(study.study, evaluator=evaluator)
    names, shares = list(importances)[::-1], [100 * v for v in importances.values()][::-1]
    figure = Figure(figsize=(7.2, 1.6 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, shares, color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.0f}" for share in shares], padding=3)
    axes.set_xlim(0, 108)  # with room for the largest number
    axes.set_xlabel("importance by fANOVA (% of what all parameters explain)")
    axes.grid(axis="x", color="0.92")
    write_title(figure, study.title("importance of each parameter"))
    return figure


def contours(study: StudyTrials) -> Figure:
    """Draw the value over each pair of parameters, with crosses for pruned trials.

    Surfaces are linear between finished trials, and are left out beyond them and between choices.
    """
    parameters = study.search_axes
    n = len(parameters) - 1
    figure = Figure(figsize=(max(5.4, 1.8 + 2.5 * n), 1.6 + 2.3 * n), layout="constrained")
    panels = figure.subplots(n, n, squeeze=False)
    low, high = min(study.values), max(study.values)
    norm = Normalize(low, high if high > low else low + 1)
    for (i, j), axes in np.ndenumerate(panels):
        if j > i:
            axes.axis("off")
            continue
        across, up = parameters[j], parameters[i + 1]
        xs, ys = across.places(study.finished), up.places(study.finished)
        if not (across.is_choice or up.is_choice):
            _fill(axes, xs, ys, study.values, norm)
        pruned = across.places(study.pruned), up.places(study.pruned)
        axes.plot(*pruned, "x", color="0.4", markersize=4)
        axes.scatter(
            xs, ys, c=study.values, cmap=COLOR_MAP, norm=norm, edgecolors=BLACK, s=40, zorder=3
        )
        across.draw_on_x(axes, CONTOUR, with_labels=i == n - 1)
        up.draw_on_y(axes, with_labels=j == 0)
    bar = ScalarMappable(norm, COLOR_MAP)
    label = f"{study.value_label}; surfaces: linear between finished trials"
    figure.colorbar(bar, ax=panels, label=label, shrink=0.8)
    write_title(figure, study.title("pairs of parameters"))
    samples = [
        Line2D([], [], linestyle="", marker="o", color=BLACK, markerfacecolor="0.6"),
        Line2D([], [], linestyle="", marker="x", color="0.4"),
    ]
    write_legend(figure, samples, ["finished trial", PRUNED], most=2)
    return figure


def _fill(
    axes: Axes, xs: list[float], ys: list[float], values: list[float], norm: Normalize
) -> None:
    """Draw a surface through the points, unless they span no area."""
    points = np.unique(np.array([xs, ys]).T, axis=0)
    if np.linalg.matrix_rank(points - points[0], tol=1e-6) < 2:
        return
    levels = np.linspace(float(norm.vmin or 0), float(norm.vmax or 0), LEVELS + 1)
    axes.tricontourf(
        Triangulation(xs, ys), values, levels=levels, cmap=COLOR_MAP, norm=norm, extend="both"
    )


# End of a file's name -> what draws it.
KINDS: dict[str, Callable[[StudyTrials], Figure]] = {
    "history": history,
    "slice": slices,
    "importance": importance,
    "contour": contours,
}


def drawable(study: StudyTrials) -> list[str]:
    """Return the kinds of figures for which there are enough trials and parameters."""
    any_finished = len(study.finished) > 0
    enough = {
        "history": any_finished,
        "slice": any_finished,
        "importance": len(set(study.values)) > 1,
        "contour": any_finished and len(study.search_axes) > 1,
    }
    return [kind for kind in KINDS if enough[kind]]
