"""What is wrong with how a figure looks, computed from its artists; no picture is compared."""

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
    """Of each panel: markers and lines that two colours share."""
    found = []
    for axes in figure.axes:
        colors = defaultdict(set)
        for line in axes.lines:
            if line.get_marker() in CAPS or line.get_marker() == "None":
                continue
            is_open = to_hex(line.get_markerfacecolor()) == WHITE
            face = "none" if is_open else line.get_fillstyle()
            look = f"{line.get_marker()} {face} {line.get_linestyle()}"
            colors[look].add(to_hex(line.get_color()))  # type: ignore[arg-type]
        found += [look for look, several in colors.items() if len(several) > 1]
    return found


def overprinted(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that are printed over each other."""
    shown = [(t.get_text(), _box(t)) for t in _texts(figure)]
    return [(a, b) for (a, one), (b, two) in combinations(shown, 2) if _overlap(one, two)]


def cut_off(figure: Figure) -> list[str]:
    """Texts that leave the picture."""
    width, height = figure.bbox.width, figure.bbox.height
    return [
        text.get_text()
        for text in _texts(figure)
        for box in (_box(text),)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def _texts(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    found = [figure._suptitle] if figure._suptitle else []  # type: ignore[attr-defined]
    found += [t for legend in figure.legends for t in legend.get_texts()]
    for axes in figure.axes:
        if axes.axison:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            found += [t for axis in (axes.xaxis, axes.yaxis) for t in _tick_labels(axis)]
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def _tick_labels(axis: Axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    found = []
    for minor in (False, True):
        places, labels = axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor)
        shown = zip(places, labels, strict=False)
        found += [label for place, label in shown if low <= place <= high]
    return found


def _box(text: Text) -> Bbox:
    """Without the empty lines above it."""
    box = text.get_window_extent()
    lines = text.get_text().split("\n")
    empty = next(i for i, line in enumerate(lines) if line.strip())
    return Bbox.from_extents(box.x0, box.y0, box.x1, box.y1 - box.height * empty / len(lines))


def _overlap(one: Bbox, two: Bbox) -> bool:
    width = min(one.x1, two.x1) - max(one.x0, two.x0)
    height = min(one.y1, two.y1) - max(one.y0, two.y0)
    return width > 1 and height > 1  # pixels; letters do not fill their boxes
