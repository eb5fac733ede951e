"""Faults in how a figure looks, computed from its artists without comparing pictures."""

from collections import defaultdict
from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

WHITE = "#ffffff"
CAPS = "_|"  # of intervals


def told_apart_by_colour_alone(figure: Figure) -> list[str]:
    """Return the combinations of marker and line that two colours of a panel share."""
    looks = []
    for axes in figure.axes:
        colors = defaultdict(set)
        for line in axes.lines:
            if line.get_marker() in CAPS or line.get_marker() == "None":
                continue
            is_open = to_hex(line.get_markerfacecolor()) == WHITE
            face = "none" if is_open else line.get_fillstyle()
            look = f"{line.get_marker()} {face} {line.get_linestyle()}"
            colors[look].add(to_hex(line.get_color()))
        looks += [look for look, several in colors.items() if len(several) > 1]
    return looks


def overprinted(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts that are printed over each other."""
    boxes = [(t.get_text(), _box(t)) for t in _texts(figure)]
    return [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if _overlap(one, two)]


def cut_off(figure: Figure) -> list[str]:
    """Return the texts that leave the picture."""
    width, height = figure.bbox.width, figure.bbox.height
    return [
        text.get_text()
        for text in _texts(figure)
        for box in (_box(text),)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def _texts(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    texts = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts())]
    for axes in figure.axes:
        if axes.axison:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            texts += [t for axis in (axes.xaxis, axes.yaxis) for t in _tick_labels(axis)]
    return [t for t in texts if t.get_visible() and t.get_text().strip()]


def _tick_labels(axis: Axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    ticks = [
        tick
        for minor in (False, True)
        for tick in zip(
            axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor), strict=False
        )
    ]
    return [label for place, label in ticks if low <= place <= high]


def _box(text: Text) -> Bbox:
    """Return the box of a text without the empty lines above it."""
    box = text.get_window_extent()
    lines = text.get_text().split("\n")
    empty = next(i for i, line in enumerate(lines) if line.strip())
    return Bbox.from_extents(box.x0, box.y0, box.x1, box.y1 - box.height * empty / len(lines))


def _overlap(one: Bbox, two: Bbox) -> bool:
    width = min(one.x1, two.x1) - max(one.x0, two.x0)
    height = min(one.y1, two.y1) - max(one.y0, two.y0)
    return width > 1 and height > 1  # pixels; letters do not fill their boxes
