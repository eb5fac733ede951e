"""What all figures share: what they say of their bundle, and how they become pictures.

Drawn without pyplot, so nothing is left behind in this process, and with matplotlib's defaults
whatever else it has set. `look.py` has their colours, markers and ticks.
"""

from __future__ import annotations

import contextlib
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from PIL import Image

from harness.analysis.bundle import Bundle
from harness.analysis.figures.style import STYLES, Style
from harness.analysis.tables.rows import (
    Column,
    Row,
    cell_estimate,
    columns_of,
    main_metric,
    part_sizes,
    rows_of,
)
from harness.methods import REGISTRY, STAGES
from harness.plan import TEACHER

SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a data set's name may hold a dollar sign
    "figure.dpi": 150,
}
LETTERS_PER_INCH = 12  # of a title
# What a figure goes by in words, of results.SELECTION_RULES.
SAID = {
    "selected": "epoch selected on validation",
    "last": "last epoch",
    "best_on_test": "best epoch on test (a leak)",
}

MANY_TASKS = "it shows one task, and this grid has several"
OLD_BUNDLE = "the bundle was written before it held them; `harness tables FILE` writes it anew"


@dataclass(frozen=True)
class Kind:
    """A figure that a bundle may have.

    missing: bundle -> why it is left out; "" where its grid has no such numbers at all, None where
        it can be drawn.
    """

    name: str
    draw: Callable[[Bundle], Figure]
    missing: Callable[[Bundle], str | None] = lambda bundle: None


def data_of(bundle: Bundle) -> dict[str, str]:
    """Name of the data set and number of images of each part, as the students had them: "60", or
    "40 to 60" of several tasks."""
    without_tasks = bundle.tasks is None
    students = [
        number
        for number in bundle.numbers
        if (number.stage != TEACHER if without_tasks else number.task is not None)
    ]
    return {"name": students[0].cell.manifest.data.name, **part_sizes(students)}


def column_axis(columns: list[Column]) -> str:
    """What the columns are."""
    return ", ".join(dict.fromkeys(name for column in columns for name in column.words))


def draw_teacher(bundle: Bundle, axes: Axes) -> None:
    """Its mean accuracy, on its own test images, as a line across."""
    teacher = [r for r in rows_of(bundle) if r.stage == TEACHER]
    value = cell_estimate(bundle, teacher[0], columns_of(bundle)[0]) if teacher else None
    if value is not None:
        whose = ", of its own task" if bundle.tasks else ""
        label, level = f"Teacher ({bundle.teacher}), mean{whose}", 100 * value.mean
        axes.axhline(level, color="0.6", linestyle="--", linewidth=1, zorder=0, label=label)


def has_many_tasks(bundle: Bundle) -> bool:
    return len({column.task for column in columns_of(bundle)}) > 1


def labels_of(bundle: Bundle) -> dict[str, str]:
    """Method -> how the table calls it."""
    return {r.method: r.label for r in rows_of(bundle) if r.is_final}


# The last stages of all methods are shown together, whatever their number.
LAST = max(len(method.stages) for method in REGISTRY.values())


def rows_in_stage(bundle: Bundle, number: int) -> list[Row]:
    """The rows of the methods' stage with this number that is not their last, each with the one
    metric that the protocol goes by; for LAST, the final rows of all methods. Without stages on the
    teacher's task: their numbers are of other classes and images than the others'."""
    rows = [r for r in rows_of(bundle) if not r.on_teachers]
    if number == LAST:
        return [r for r in rows if r.is_final]
    mains = {main_metric(bundle, stage.metric) for stage in STAGES.values()}
    return [r for r in rows if r.number == number and not r.is_final and r.result in mains]


def centers(bundle: Bundle) -> str:
    """Which images make the class centres of the NCM accuracy."""
    return {"train": "training", "evaluated": "evaluated"}[
        bundle.experiment["protocol"]["ncm_centers"]
    ]


def styles_of(bundle: Bundle) -> dict[str, Style]:
    """Method, as the table calls it -> its style. What is trained comes first: it shares no colour
    where there are enough."""
    final = sorted((r for r in rows_of(bundle) if r.is_final), key=lambda r: not r.takes_steps)
    labels = dict.fromkeys(r.label for r in final)
    return {label: STYLES[i % len(STYLES)] for i, label in enumerate(labels)}


def seeds(counts: Iterable[int]) -> str:
    """'n = 3 seeds', or every number that occurs."""
    numbers = sorted(set(counts))
    return f"n = {' or '.join(map(str, numbers))} seed{'' if numbers == [1] else 's'}"


def images(bundle: Bundle, part: str) -> str:
    """'1000 test images'."""
    return f"{data_of(bundle)[part]} {'training' if part == 'train' else part} images"


def protocol(bundle: Bundle) -> str:
    return f"protocol {bundle.protocol}, {SAID[bundle.reported]}"


def title(figure: Figure, bundle: Bundle, what: str, data: str, *details: str) -> None:
    """What is shown, of which data, then details."""
    data_set = f"data set {data_of(bundle)['name']}, {data}"
    write_title(figure, f"{bundle.name}: {what}", data_set, *details)


def write_title(figure: Figure, *lines: str) -> None:
    """A long line is wrapped to the figure's width."""
    width = int(LETTERS_PER_INCH * figure.get_figwidth())
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    figure.suptitle("\n".join(wrapped), fontsize=10)


# Letters of scripts that matplotlib would write from the wrong side and unjoined.
RIGHT_TO_LEFT = ("R", "AL", "AN")


@lru_cache
def _letters() -> frozenset[int]:
    """That the font of figures has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _is_writable(letter: str) -> bool:
    known = ord(letter) in _letters() and letter.isprintable()
    return known and unicodedata.bidirectional(letter) not in RIGHT_TO_LEFT


def readable(text: str) -> bool:
    """Whether figures can show this name: the font has every letter of it, so no empty boxes."""
    return bool(text.strip()) and all(map(_is_writable, unicodedata.normalize("NFC", text)))


def writable(text: str) -> str:
    """The text with a question mark in place of every letter that figures cannot show."""
    letters = unicodedata.normalize("NFC", text)
    return "".join(c if c == "\n" or _is_writable(c) else "?" for c in letters)


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """matplotlib's defaults and SETTINGS; what was set before comes back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def pixels(figure: Figure) -> Image.Image:
    """One byte a pixel: with a palette of their colours, pictures stay small."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (shown := writable(text.get_text())) != text.get_text():
            text.set_text(shown)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE)
