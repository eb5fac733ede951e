"""The frame of all figures: their titles, and how they become pictures.

They are drawn without pyplot, so that nothing is left behind in the process, and with matplotlib's
defaults whatever the process has set. `style.py` has their colours, markers and ticks.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
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
from harness.common.files import write_user_file
from harness.experiment.pairs import pair_label
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
SELECTION_TEXT = {  # of harness.common.metrics.SELECTION_RULES
    "selected": "epoch selected on validation",
    "last": "last epoch",
    "best_on_test": "best epoch on test (a leak)",
}

MANY_TASKS = "it shows one task, and this grid has several"
OLD_BUNDLE = "the bundle was written before it held them; `harness tables FILE` writes it anew"


@dataclass(frozen=True)
class Kind:
    """A figure that a bundle may have.

    Attributes:
        name: of its file.
        draw: draws it from a bundle.
        missing: returns why it is left out; "" if the grid has no such numbers at all, and None if
            it can be drawn.
    """

    name: str
    draw: Callable[[Bundle], Figure]
    missing: Callable[[Bundle], str | None] = lambda bundle: None


def data_of(bundle: Bundle) -> dict[str, str]:
    """Return the name of the students' data set, and the number of images of each part.

    With several tasks a number may be a range, as in "40 to 60".
    """
    without_tasks = bundle.tasks is None
    students = [
        number
        for number in bundle.numbers
        if (number.stage != TEACHER if without_tasks else number.task is not None)
    ]
    return {"name": students[0].cell.manifest.data.name, **part_sizes(students)}


def column_axis(columns: list[Column]) -> str:
    """Return the axis label of these columns: their dimensions."""
    names = dict.fromkeys(name for column in columns for name in column.words)
    pair = pair_label("teacher", "student") if columns[0].teacher else "student"
    return ", ".join(pair if name == "student" else name for name in names)


def draw_teacher(bundle: Bundle, axes: Axes, columns: Sequence[Column]) -> None:
    """Draw the teacher's mean accuracy, on its own test images, as a horizontal line.

    If the columns have several teachers, each has a line of its own at its place on the axis.
    """
    row = next((r for r in rows_of(bundle) if r.stage == TEACHER), None)
    values = [row and cell_estimate(bundle, row, column) for column in columns]
    on_task = ", of its own task" if bundle.tasks else ""
    style: dict[str, Any] = {"color": "0.6", "linestyle": "--", "linewidth": 1, "zorder": 0}
    if len({column.teacher for column in columns}) > 1:
        ends = [(100 * v.mean, x - 0.45, x + 0.45) for x, v in enumerate(values) if v]
        if ends:
            axes.hlines(
                *zip(*ends, strict=True), label=f"Teacher of the pair, mean{on_task}", **style
            )
    elif values[0]:
        name = columns[0].teacher or bundle.teacher
        axes.axhline(100 * values[0].mean, label=f"Teacher ({name}), mean{on_task}", **style)


def has_many_tasks(bundle: Bundle) -> bool:
    """Return whether the columns differ in their tasks."""
    return len({column.task for column in columns_of(bundle)}) > 1


def labels_of(bundle: Bundle) -> dict[str, str]:
    """Return method -> its label in the table."""
    return {r.method: r.label for r in rows_of(bundle) if r.is_final}


# The last stages of all methods are shown together, whatever their number.
LAST = max(len(method.stages) for method in REGISTRY.values())


def rows_in_stage(bundle: Bundle, number: int) -> list[Row]:
    """Return the rows of the methods' stage with this number, each with the protocol's metric.

    Final stages count as LAST, whatever their number. Stages on the teacher's task are left out, as
    their numbers are for other classes and images.
    """
    rows = [r for r in rows_of(bundle) if not r.on_teachers]
    if number == LAST:
        return [r for r in rows if r.is_final]
    metrics = {main_metric(bundle, stage.metric) for stage in STAGES.values()}
    return [r for r in rows if r.number == number and not r.is_final and r.result in metrics]


def centers(bundle: Bundle) -> str:
    """Return which images make the class centres of the NCM accuracy."""
    return {"train": "training", "evaluated": "evaluated"}[
        bundle.experiment["protocol"]["ncm_centers"]
    ]


def styles_of(bundle: Bundle) -> dict[str, Style]:
    """Return label of a method -> its style.

    Trained methods come first, so that they do not share a colour as long as there are enough.
    """
    final = sorted((r for r in rows_of(bundle) if r.is_final), key=lambda r: not r.takes_steps)
    labels = dict.fromkeys(r.label for r in final)
    return {label: STYLES[i % len(STYLES)] for i, label in enumerate(labels)}


def seeds_text(counts: Iterable[int]) -> str:
    """Return 'n = 3 seeds', with every number that occurs."""
    numbers = sorted(set(counts))
    return f"n = {' or '.join(map(str, numbers))} seed{'' if numbers == [1] else 's'}"


def images_text(bundle: Bundle, part: str) -> str:
    """Return '1000 test images'."""
    return f"{data_of(bundle)[part]} {'training' if part == 'train' else part} images"


def protocol_text(bundle: Bundle) -> str:
    """Return the protocol, and the epoch that its numbers come from."""
    return f"protocol {bundle.protocol}, {SELECTION_TEXT[bundle.reported]}"


def write_title(figure: Figure, bundle: Bundle, subject: str, data: str, *details: str) -> None:
    """Write the title of a bundle's figure: its subject, the data, then details."""
    data_set = f"data set {data_of(bundle)['name']}, {data}"
    write_lines(figure, f"{bundle.name}: {subject}", data_set, *details)


def write_lines(figure: Figure, *lines: str) -> None:
    """Write a title of these lines, each wrapped to the figure's width."""
    width = int(LETTERS_PER_INCH * figure.get_figwidth())
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    figure.suptitle("\n".join(wrapped), fontsize=10)


# Scripts that matplotlib would write in the wrong direction and with unjoined letters.
RIGHT_TO_LEFT = ("R", "AL", "AN")


@lru_cache
def _letters() -> frozenset[int]:
    """Return the code points that the figures' font has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _is_writable(letter: str) -> bool:
    known = ord(letter) in _letters() and letter.isprintable()
    return known and unicodedata.bidirectional(letter) not in RIGHT_TO_LEFT


def readable(text: str) -> bool:
    """Return whether the font has every letter of this name, so that it shows no empty boxes."""
    return bool(text.strip()) and all(map(_is_writable, unicodedata.normalize("NFC", text)))


def writable(text: str) -> str:
    """Return the text with a question mark for every letter that figures cannot show."""
    letters = unicodedata.normalize("NFC", text)
    return "".join(c if c == "\n" or _is_writable(c) else "?" for c in letters)


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Use matplotlib's defaults and SETTINGS; restore the process's settings afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def pixels(figure: Figure) -> Image.Image:
    """Draw the figure as a picture with a palette, one byte per pixel, so that files stay small."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (letters := writable(text.get_text())) != text.get_text():
            text.set_text(letters)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE)


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure with the house's settings and save it as a PNG file."""
    data = io.BytesIO()
    with default_settings():
        pixels(draw()).save(data, "PNG", optimize=True)
    write_user_file(path, data.getvalue())
