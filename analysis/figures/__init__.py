"""Figures of a bundle, one module per kind, listed here in their order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.analysis.bundle import Bundle
from harness.analysis.figures import accuracy, by_task, confusion, curves, ncm_scatter
from harness.analysis.figures.base import DPI, Kind, save
from harness.common.files import write_user_file

CAPTIONS = "captions.txt"
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
    missing = {name: kind.missing(bundle) for name, kind in FIGURES.items()}
    names = [name for name, reason in missing.items() if reason is None]
    return names, {name: reason for name, reason in missing.items() if reason}


def draw_all(
    bundle: Bundle, folder: Path, formats: Sequence[str] = ("png",), dpi: int = DPI
) -> list[Path]:
    """Draw every figure that the bundle has the numbers for as folder/NAME.png.

    The same bundle gives the same bytes. A figure without numbers is removed from the folder, and
    captions.txt there has the captions of the others.

    Args:
        bundle: The results.
        folder: Where the files belong.
        formats: Their endings.
        dpi: Dots per inch of PNG files.

    Returns:
        The pictures that were drawn.
    """
    names, _ = drawable(bundle)
    drawn = []
    for name, kind in FIGURES.items():
        for form in formats:
            path = folder / f"{name}.{form}"
            if name in names:
                save(partial(kind.draw, bundle), path, dpi)
                drawn.append(path)
            else:
                path.unlink(missing_ok=True)
    texts = {name: FIGURES[name].texts(bundle) for name in names}
    lines = [f"{name}: {text.caption}\n" for name, text in texts.items()]
    write_user_file(folder / CAPTIONS, "\n".join(lines))
    return drawn
