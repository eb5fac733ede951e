"""Figures of a bundle, one module per kind, listed here in their order."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.analysis.bundle import Bundle
from harness.analysis.figures import accuracy, by_task, confusion, curves, ncm_scatter
from harness.analysis.figures.base import DPI, Format, Kind, file_of
from harness.common.errors import one_line
from harness.common.files import write_user_file

CAPTIONS = "captions.txt"
STRICT = "HARNESS_STRICT_FIGURES"  # the tests set it: a figure that cannot be drawn is an error
FIGURES: dict[str, Kind] = {
    kind.name: kind
    for module in (accuracy, by_task, curves, ncm_scatter, confusion)
    for kind in module.FIGURES
}


def drawable(bundle: Bundle) -> tuple[list[str], dict[str, str]]:
    """Return the figures that the bundle has the numbers for.

    Returns:
        Their names; and name -> why it is left out, for the others that the grid could have.
    """
    missing = {name: _missing(bundle, kind) for name, kind in FIGURES.items()}
    names = [name for name, reason in missing.items() if reason is None]
    return names, {name: reason for name, reason in missing.items() if reason}


def _missing(bundle: Bundle, kind: Kind) -> str | None:
    """Return why a figure is left out; None also if that fails, as drawing then says why."""
    try:
        return kind.missing(bundle)
    except Exception:
        if STRICT in os.environ:
            raise
        return None


def draw_all(
    bundle: Bundle, folder: Path, formats: Sequence[Format] = ("png",), dpi: int = DPI
) -> list[Path]:
    """Draw every figure that the bundle has the numbers for as folder/NAME.png.

    The same bundle gives the same bytes. A figure without numbers is removed from the folder, and
    captions.txt there has the captions of the others. One that cannot be drawn is a defect of the
    code, but the results are worth more than their picture: it is left out with a note.

    Args:
        bundle: The results.
        folder: Where the files belong.
        formats: Their endings.
        dpi: Dots per inch of PNG files.

    Returns:
        The pictures that were drawn.
    """
    names, _ = drawable(bundle)
    drawn, captions = [], []
    for name, kind in FIGURES.items():
        files: dict[Format, bytes] = {}
        if name in names:
            try:
                draw = partial(kind.draw, bundle)
                caption = kind.texts(bundle).caption
                files = {form: file_of(draw, form, dpi) for form in formats}
                captions.append(f"{name}: {caption}\n")
            except Exception as error:
                if STRICT in os.environ:
                    raise
                note = f"{bundle.name}: {name}: could not be drawn ({one_line(error)})"
                print(note, file=sys.stderr)
        for form in formats:
            path = folder / f"{name}.{form}"
            if form in files:
                write_user_file(path, files[form])
                drawn.append(path)
            else:
                path.unlink(missing_ok=True)
    write_user_file(folder / CAPTIONS, "\n".join(captions))
    return drawn
