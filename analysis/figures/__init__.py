"""Figures of a bundle: a module each, listed here in their order."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.bundle import Bundle
from harness.analysis.figures import accuracy, by_task, confusion, curves, ncm_scatter
from harness.analysis.figures.base import Kind, default_settings, pixels

FIGURES: dict[str, Kind] = {
    kind.name: kind
    for module in (accuracy, by_task, curves, ncm_scatter, confusion)
    for kind in module.FIGURES
}


def drawable(bundle: Bundle) -> tuple[list[str], dict[str, str]]:
    """The figures this bundle has the numbers for, and why the others that its grid could have are
    left out."""
    missing = {name: kind.missing(bundle) for name, kind in FIGURES.items()}
    drawn = [name for name, why in missing.items() if why is None]
    return drawn, {name: why for name, why in missing.items() if why}


def draw_all(bundle: Bundle, folder: Path) -> list[Path]:
    """Draw what the bundle holds the numbers for (`drawable`) as folder/NAME.png. The same
    bundle gives the same bytes; a figure that it has no numbers for is removed from the folder."""
    names, _ = drawable(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        path = folder / f"{name}.png"
        if name not in names:
            path.unlink(missing_ok=True)
            continue
        with default_settings():
            pixels(FIGURES[name].draw(bundle)).save(path, optimize=True)
    return [folder / f"{name}.png" for name in names]
