"""`harness predict`: the classes of pictures, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.common.errors import UserError
from harness.common.names import spreadsheet_text
from harness.data.listing import is_litter
from harness.trained.model import TrainedModel


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths`, and the files in the folders, sorted by name.

    Hidden files and those that file managers leave behind are skipped.

    Raises:
        UserError: A path does not exist, or a folder is empty.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not is_litter(p.name))
            if not inside:
                raise UserError(f"IMAGES: no files in the folder {path}; name one that has images")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"IMAGES: no file {path}; check the path")
    return files


def predictions(model: TrainedModel, files: Sequence[Path]) -> Iterator[tuple[str, str, float]]:
    """Yield (file, most probable class, its probability) for each picture.

    Raises:
        UserError: One cannot be read as an image.
    """
    probabilities = model.probabilities(files)
    best, classes = probabilities.max(1)
    for file, probability, label in zip(files, best.tolist(), classes.tolist(), strict=True):
        yield str(file), model.class_names[label], probability


def as_csv(rows: Iterator[tuple[str, str, float]]) -> str:
    """Return predictions as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("file", "class", "probability"))
    for *names, probability in rows:
        writer.writerow((*map(spreadsheet_text, names), f"{probability:.4f}"))
    return buffer.getvalue()
