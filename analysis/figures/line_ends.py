"""Names of lines at their ends, and limits of axes that one method does not squeeze.

The heights of texts are assumed, not measured, so that places do not depend on a font.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness.analysis.figures.style import Style
from harness.analysis.statistics import Estimate

LINE = 0.155  # inches from one line of small text to the next
SMALL = 8  # points
MARKER_AT, TEXT_AT = 1.05, 1.08  # in widths of the axes
SQUEEZED = 4.0  # times: how much larger the others must become before an axis is clipped
FEWEST = 6  # estimates, to call some of them far away from the others
MARGIN = 0.06  # of an axis beyond what it shows


@dataclass(frozen=True)
class Limits:
    """The limits of an axis, in the unit that it shows."""

    low: float
    high: float

    def is_outside(self, value: float) -> bool:
        """Return whether a value lies beyond the axis."""
        return not self.low <= value <= self.high


def n_squeezing(means: Sequence[float]) -> int:
    """Return how many of the first means squeeze the others: at most a third of them, and often 0.

    Args:
        means: in ascending order.
    """
    if len(means) < FEWEST:
        return 0
    span = means[-1] - means[0]
    gains = [0.0]
    for n in range(1, len(means) // 3 + 1):
        rest = means[-1] - means[n]
        gains.append(span / rest if rest > 0 else 0.0)
    enough = max(SQUEEZED, max(gains) / 2)  # leaving out even more must be worth it
    return next((n for n, gain in enumerate(gains) if gain >= enough), 0)


def limits(estimates: Sequence[Estimate], bounds: tuple[float, float], scale: float) -> Limits:
    """Return the limits of an axis for these estimates.

    A few methods far away from all others are left outside. An interval widens the axis by no more
    than the means' own range, as that of two seeds may be longer than everything else.

    Args:
        estimates: of all panels that share the axis; at least one.
        bounds: the least and the greatest possible value, as shown.
        scale: what a value is multiplied by to be shown.
    """
    ordered = sorted(estimates, key=lambda e: e.mean)
    n = n_squeezing([e.mean for e in ordered])
    kept = ordered[n:]
    n = n_squeezing([-e.mean for e in reversed(kept)])
    kept = kept[: len(kept) - n]
    lowest, highest = kept[0].mean, kept[-1].mean
    most = max(highest - lowest, 1 / scale)
    low = min(e.mean - min(e.shown_half_width or 0, most) for e in kept)
    high = max(e.mean + min(e.shown_half_width or 0, most) for e in kept)
    margin = MARGIN * max(high - low, 1 / scale)
    slack = MARGIN * (high - low) * scale / 2  # so that a marker at a bound is not cut
    return Limits(
        max(scale * (low - margin), bounds[0] - slack),
        min(scale * (high + margin), bounds[1] + slack),
    )


def shared_limits(
    panels: Sequence[Sequence[Estimate]], bounds: tuple[float, float], scale: float
) -> Limits:
    """Return the limits of an axis that panels share: what each of them would show by itself."""
    parts = [limits(estimates, bounds, scale) for estimates in panels if estimates]
    return Limits(min(p.low for p in parts), max(p.high for p in parts))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places between 0 and 1 apart, so that neighbours are at least `gap` from each other.

    Order and, as far as possible, places are kept; if they do not fit at all, they are equidistant.
    """
    n = len(places)
    gap = min(gap, 1 / max(1, n - 1))
    order = sorted(range(n), key=lambda i: places[i])
    # Blocks of touching places, each at the mean of where its members would like to begin.
    blocks: list[tuple[float, list[int]]] = []
    for i in order:
        start, members = min(max(places[i], 0.0), 1.0), [i]
        while blocks and blocks[-1][0] + gap * len(blocks[-1][1]) > start:
            before, earlier = blocks.pop()
            total = before * len(earlier) + (start - gap * len(earlier)) * len(members)
            members = [*earlier, *members]
            start = total / len(members)
            start = min(max(start, 0.0), 1.0 - gap * (len(members) - 1))
        blocks.append((start, members))
    result = [0.0] * n
    for start, members in blocks:
        for k, i in enumerate(members):
            result[i] = start + gap * k
    return result


def name_ends(
    axes: Axes, ends: Mapping[str, tuple[float, float]], styles: Mapping[str, Style], inches: float
) -> None:
    """Write the name of each line to the right of the axes, with its marker and a thin leader.

    Args:
        axes: with its final limits and scale.
        ends: name -> last point; one outside the limits is named at the edge, with its value.
        styles: name -> style.
        inches: approximate height of the axes.
    """
    low, high = axes.get_ylim()
    transform = axes.yaxis.get_transform()
    bottom, top = (float(transform.transform([v])[0]) for v in (low, high))
    names = list(ends)
    places = [
        (float(transform.transform([ends[n][1]])[0]) - bottom) / (top - bottom) for n in names
    ]
    moved = spread(places, LINE / inches)
    for name, place in zip(names, moved, strict=True):
        x, y = ends[name]
        outside = f" ({y:.0f}, {'below' if y < low else 'above'})" if not low <= y <= high else ""
        axes.annotate(
            "",
            xy=(x, min(max(y, low), high)),
            xytext=(MARKER_AT, place),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6, "shrinkB": 3},
            annotation_clip=False,
        )
        marker = Line2D(
            [MARKER_AT],
            [place],
            **styles[name].point,
            markersize=4.5,
            linestyle=styles[name].line,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.add_artist(marker)
        axes.text(
            TEXT_AT,
            place,
            f"{name}{outside}",
            va="center",
            fontsize=SMALL,
            transform=axes.transAxes,
        )
