"""How figures look: methods' colours, markers and lines, ticks, legends.

Colours are those of Okabe and Ito, which people see apart whatever their colour vision
(https://jfly.uni-koeln.de/color/), but for yellow, which is lost on white. What they show is told
apart without them as well: by marker, face and line.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
MARKERS = "osD^vPX<>*"
WHITE = "1.0"
ROUND_STEPS = (1, 2, 5, 10)
MOST_TICKS = 10  # of a logarithmic axis
LETTER = 0.085  # inches of a tick's letter, on average
DIGITS_ABOVE = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Style:
    """How one method looks in every figure of a bundle. face: the inside of its marker."""

    marker: str
    line: Literal["-", "--", "-.", ":"]
    color: str
    face: str

    @property
    def point(self) -> dict[str, Any]:
        """Of a point or a line's points, as matplotlib calls it."""
        return {"marker": self.marker, "color": self.color, "markerfacecolor": self.face}


def _style(i: int) -> Style:
    color = COLORS[i % len(COLORS)]
    filled = (i + i // len(MARKERS)) % 2 == 0  # a marker's second turn has the other face
    return Style(
        MARKERS[i % len(MARKERS)], LINES[i % len(LINES)], color, color if filled else WHITE
    )


STYLES = tuple(_style(i) for i in range(2 * len(MARKERS)))


def tick_text(value: float) -> str:
    """A tick as people write it: 0.002, 50, 5·10⁻⁵."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:g}"
    factor, power = f"{value:e}".split("e")
    ten = f"10{str(int(power)).translate(DIGITS_ABOVE)}"
    return ten if float(factor) == 1 else f"{float(factor):g}·{ten}"


def log_ticks(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """Ticks of a logarithmic axis from low to high (above 0): 1, 2 and 5 times powers of ten; where
    they are more than `most`, powers of ten alone, at equal distances; where they are fewer than
    three, round numbers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)

    def inside(ticks: Sequence[float]) -> list[float]:
        slack = 1e-9  # of a limit that is a tick itself
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
    """Make the axis logarithmic, with `log_ticks` in its view, which does not change any more."""
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    ticks = log_ticks(low, high, most)
    axis.set_ticks(ticks, [tick_text(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def stagger(axes: Axes, xs: Sequence[float], words: Sequence[str], inches: float) -> None:
    """Ticks on x with these words, in two rows or more where they would be printed over each other.

    inches: about the width of the axes, whose limits are set already.
    """
    at: dict[float, str] = {}  # a place has one text
    for x, word in sorted(zip(map(float, xs), words, strict=True), key=lambda pair: pair[0]):
        at[x] = f"{at[x]}, {word}" if x in at else word
    transform = axes.xaxis.get_transform()
    left, right = transform.transform(np.array(axes.get_xlim()))
    places = inches * (transform.transform(np.array(list(at))) - left) / (right - left)
    ends: list[float] = []  # of each row
    shown = []
    for place, word in zip(places.tolist(), at.values(), strict=True):
        half = LETTER * (len(word) + 1) / 2
        row = next((i for i, end in enumerate(ends) if end <= place - half), len(ends))
        ends[row : row + 1] = [place + half]
        shown.append("\n" * row + word)
    axes.set_xticks(list(at), shown)
    axes.set_xticks([], minor=True)


def title_panel(axes: Axes, text: str, inches: float) -> None:
    """Above the axes, in as many lines as it takes. inches: about their width."""
    axes.set_title("\n".join(textwrap.wrap(text, max(1, int(inches / LETTER)))))


def write_legend(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], most: int, **options: Any
) -> Legend:
    """A legend below the axes, of as many columns as fit into the figure, `most` at most."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    for columns in range(most, 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, **options
        )
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            break
        legend.remove()
    return legend
