"""`harness predict`: what a network says of pictures, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.common.errors import UserError
from harness.data.listing import is_litter
from harness.trained.model import TrainedModel


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and all files in the folders, sorted; hidden ones and what file
    managers leave there aside.

    Raises:
        UserError: nothing there, or an empty folder.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not is_litter(p.name))
            if not inside:
                raise UserError(f"IMAGES: no files in the folder {path}; name one that has images")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"IMAGES: no file {path}; check the path")
    return found


def predictions(model: TrainedModel, files: Sequence[Path]) -> Iterator[tuple[str, str, float]]:
    """(file, the most probable class, its probability) of each picture.

    Raises:
        UserError: one cannot be read as an image.
    """
    probabilities = model.probabilities(files)
    best, classes = probabilities.max(1)
    for file, probability, label in zip(files, best.tolist(), classes.tolist(), strict=True):
        yield str(file), model.class_names[label], probability


def as_csv(rows: Iterator[tuple[str, str, float]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("file", "class", "probability"))
    writer.writerows((file, name, f"{probability:.4f}") for file, name, probability in rows)
    return buffer.getvalue()
