"""The frame of all figures: their titles and captions, and how they become files.

They are drawn without pyplot, so that nothing is left behind in the process, and with matplotlib's
defaults whatever the process has set. A picture holds a title of one line; everything else that a
reader must know stands in its caption, which the pages show below it.
"""

from __future__ import annotations

import contextlib
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from PIL import Image

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import FEWEST_SHOWN
from harness.analysis.tables.rows import (
    Column,
    Row,
    columns_of,
    main_metric,
    part_sizes,
    rows_of,
)
from harness.common.errors import UserError
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
    "pdf.fonttype": 42,
    "svg.hashsalt": "harness",  # otherwise the names of its parts are random
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
}
Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)
DPI = 150  # of the committed pictures
LETTERS_PER_INCH = 12  # of a title
SELECTION_TEXT = {  # of harness.common.metrics.SELECTION_RULES
    "selected": "epoch selected on validation",
    "last": "last epoch",
    "best_on_test": "best epoch on test (a leak)",
}

MANY_TASKS = "it shows one task, and this grid has several"
OLD_BUNDLE = "the bundle was written before it held them; `harness tables FILE` writes it anew"


@dataclass(frozen=True)
class Texts:
    """The alternative text and the caption of a figure.

    Attributes:
        alt: a sentence or two that describe the figure to readers who cannot see it.
        caption: what is needed to read it: intervals, seeds, data, protocol.
    """

    alt: str
    caption: str


@dataclass(frozen=True)
class Kind:
    """A figure that a bundle may have.

    Attributes:
        name: of its file.
        draw: draws it from a bundle, with its title.
        texts: returns its texts, for a bundle that has it.
        missing: returns why it is left out; "" if the grid has no such numbers at all, and None if
            it can be drawn.
    """

    name: str
    draw: Callable[[Bundle], Figure]
    texts: Callable[[Bundle], Texts]
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


def intervals_text(counts: Iterable[int], mark: str) -> str:
    """Return what a mark shows, as in "bars: 95 % t-intervals over n = 5 seeds"."""
    numbers = set(counts)
    if numbers == {1}:
        return f"one value each, without an interval, {seeds_text(numbers)}"
    if max(numbers) < FEWEST_SHOWN:
        means = f"means over {seeds_text(numbers)}"
        return f"{means}; an interval needs {FEWEST_SHOWN} seeds"
    return f"{mark}: 95 % t-intervals over {seeds_text(numbers)}, as in the tables"


def caption_of(*sentences: str) -> str:
    """Join sentences; empty ones are left out, and each gets its capital letter and full stop."""
    kept = [text.strip().rstrip(".") for text in sentences if text]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in kept)


def data_text(bundle: Bundle, *parts: str) -> str:
    """Return "data set digits, 1000 test images" for these parts of the data."""
    images = ", ".join(images_text(bundle, part) for part in parts)
    return f"data set {data_of(bundle)['name']}, {images}"


def percent_text(value: float) -> str:
    """Return a fraction in per cent with one decimal."""
    return f"{100 * value:.1f} %"


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c", with semicolons if a word has a comma itself."""
    comma = "; " if any("," in word for word in words) else ", "
    return f"{comma.rstrip() if comma == '; ' else ''} and ".join(
        filter(None, [comma.join(words[:-1]), *words[-1:]])
    )


def write_title(figure: Figure, text: str) -> None:
    """Write the figure's title in one line, which ends in … if it is too long."""
    width = int(LETTERS_PER_INCH * figure.get_figwidth())
    figure.suptitle(text if len(text) <= width else f"{text[: width - 1]}…", fontsize=10)


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


def _only_writable(figure: Figure) -> None:
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (letters := writable(text.get_text())) != text.get_text():
            text.set_text(letters)


def pixels(figure: Figure) -> Image.Image:
    """Draw the figure as a picture with a palette, one byte per pixel, so that files stay small."""
    _only_writable(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE)


def as_bytes(figure: Figure, form: Format, dpi: int) -> bytes:
    """Return the figure as a file of this format; the same figure gives the same bytes.

    A PDF has its fonts inside as TrueType, which journals ask for; in an SVG file, letters are
    paths, so that it looks the same everywhere.
    """
    data = io.BytesIO()
    if form == "png":
        figure.set_dpi(dpi)
        pixels(figure).save(data, "PNG", optimize=True, dpi=(dpi, dpi))
        return data.getvalue()
    _only_writable(figure)
    nothing = {"pdf": ("CreationDate", "Creator", "Producer"), "svg": ("Date", "Creator")}[form]
    canvas = FigureCanvasAgg(figure)
    canvas.print_figure(data, format=form, dpi=dpi, metadata=dict.fromkeys(nothing))
    return data.getvalue()


def read_formats(text: str) -> tuple[Format, ...]:
    """Read a list of formats, as "pdf,svg".

    Raises:
        UserError: It names another one, or none.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"unknown format {unknown[0]!r}" if unknown else "no format"
        raise UserError(f"--format: {what}; give some of {', '.join(FORMATS)}")
    return tuple(form for form in FORMATS if form in names)


def file_of(draw: Callable[[], Figure], form: Format, dpi: int = DPI) -> bytes:
    """Draw a figure with the house's settings and return it as a file of this format."""
    with default_settings():
        return as_bytes(draw(), form, dpi)


def save(draw: Callable[[], Figure], path: Path, dpi: int = DPI) -> None:
    """Draw a figure with the house's settings and save it in the format that the suffix names."""
    form = next(form for form in FORMATS if path.suffix == f".{form}")
    write_user_file(path, file_of(draw, form, dpi))
