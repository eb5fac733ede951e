"""Figures of a bundle, one module per kind, listed here in their order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness.analysis.bundle import Bundle
from harness.analysis.figures import accuracy, by_task, confusion, curves, ncm_scatter
from harness.analysis.figures.base import Kind, save

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


def draw_all(bundle: Bundle, folder: Path) -> list[Path]:
    """Draw every figure that the bundle has the numbers for as folder/NAME.png.

    The same bundle gives the same bytes. A figure without numbers is removed from the folder.

    Returns:
        The files that were drawn.
    """
    names, _ = drawable(bundle)
    paths = {name: folder / f"{name}.png" for name in FIGURES}
    for name, path in paths.items():
        if name in names:
            save(partial(FIGURES[name].draw, bundle), path)
        else:
            path.unlink(missing_ok=True)
    return [paths[name] for name in names]
