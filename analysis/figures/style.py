"""The style of figures: colours, markers, ticks, legends.

The colours are those of Okabe and Ito, which can be told apart with any colour vision
(https://jfly.uni-koeln.de/color/), without yellow, which is lost on white. Lines also differ in
marker, filling and dashes, so that they can be told apart without colour.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from harness.methods.mark import Dashes, Fill

COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES: tuple[Dashes, ...] = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
WHITE = "1.0"
ROUND_STEPS = (1, 2, 5, 10)
MOST_TICKS = 10  # of a logarithmic axis
LETTER = 0.085  # inches, the mean width of a tick's letter
DIGITS_ABOVE = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Style:
    """How one line is drawn; `fill` says which part of its marker has the colour."""

    marker: str
    line: Dashes
    color: str
    fill: Fill = "full"

    @property
    def is_line_art(self) -> bool:
        """True for a marker without a face, which looks smaller than others of its size."""
        return self.marker in "x+1234"

    @property
    def point(self) -> dict[str, Any]:
        """The options of its markers in matplotlib."""
        is_open = self.fill == "open"
        return {
            "marker": self.marker,
            "color": self.color,
            "fillstyle": "full" if is_open else self.fill,
            "markerfacecolor": WHITE if is_open else self.color,
            "markerfacecoloralt": WHITE,
        }


# For lines that are no methods, in this order.
SERIES = tuple(
    Style(MARKERS[i], LINES[i % len(LINES)], COLORS[i], "open" if i % 2 else "full")
    for i in range(len(COLORS))
)


def tick_text(value: float) -> str:
    """Format a tick as people write it: 0.002, 50, 5·10⁻⁵."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:g}"
    factor, power = f"{value:e}".split("e")
    ten = f"10{str(int(power)).translate(DIGITS_ABOVE)}"
    return ten if float(factor) == 1 else f"{float(factor):g}·{ten}"


def log_ticks(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """Return the ticks of a logarithmic axis from low (above 0) to high.

    They are 1, 2 and 5 times powers of ten. If these are more than `most`, they are powers of ten
    at equal distances; if they are fewer than three, round numbers.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)

    def inside(ticks: Sequence[float]) -> list[float]:
        slack = 1e-9  # a limit may be a tick itself
        return [t for t in ticks if low * (1 - slack) <= t <= high * (1 + slack)]

    ticks = inside([float(f"{f}e{p}") for p in powers for f in (1, 2, 5)])
    if len(ticks) < 3:
        return inside([float(t) for t in MaxNLocator(4, steps=ROUND_STEPS).tick_values(low, high)])
    step = 1
    while len(ticks) > most:
        ticks = inside([float(f"1e{p}") for p in powers if p % step == 0])
        step += 1
    return ticks


def scale_log(axes: Axes, axis: Axis, most: int = MOST_TICKS) -> None:
    """Make the axis logarithmic, with `log_ticks` in its present view."""
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    ticks = log_ticks(low, high, most)
    axis.set_ticks(ticks, [tick_text(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def stagger(axes: Axes, xs: Sequence[float], words: Sequence[str], inches: float) -> None:
    """Label ticks on x, in several rows where the labels would overlap.

    Args:
        axes: with its final limits.
        xs: places; the labels of equal ones are joined.
        words: their labels.
        inches: approximate width of the axes.
    """
    at: dict[float, str] = {}
    for x, word in sorted(zip(map(float, xs), words, strict=True), key=lambda pair: pair[0]):
        at[x] = f"{at[x]}, {word}" if x in at else word
    transform = axes.xaxis.get_transform()
    left, right = transform.transform(np.array(axes.get_xlim()))
    places = inches * (transform.transform(np.array(list(at))) - left) / (right - left)
    ends: list[float] = []  # right end of each row's last label
    labels = []
    for place, word in zip(places.tolist(), at.values(), strict=True):
        half = LETTER * (len(word) + 1) / 2
        row = next((i for i, end in enumerate(ends) if end <= place - half), len(ends))
        ends[row : row + 1] = [place + half]
        labels.append("\n" * row + word)
    axes.set_xticks(list(at), labels)
    axes.set_xticks([], minor=True)


def title_panel(axes: Axes, text: str, inches: float) -> None:
    """Write a title above axes of about this width, in as many lines as it needs."""
    width = max(1, int(inches / LETTER))
    if max(map(len, text.split()), default=0) > width:
        text = text.replace(">", "> ")  # a pair's networks stand in two lines
    axes.set_title("\n".join(textwrap.wrap(text, width)))


def write_legend(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], most: int, **options: Any
) -> Legend:
    """Write a legend below the axes, in as many columns as fit, `most` at most."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    for columns in range(most, 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, **options
        )
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            break
        legend.remove()
    return legend
