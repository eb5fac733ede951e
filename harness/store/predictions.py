"""Reader of predictions.npz: what a cell's reported weights predict for each test image."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from harness.store.cell_files import Damaged

NAMES = ("labels", "predictions", "class_names")


def read_predictions_file(path: Path) -> dict[str, np.ndarray] | None:
    """Read a predictions file.

    Returns:
        labels (N,), predictions (N,) and class_names (C,); None if there is no such file.

    Raises:
        Damaged: The file is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Read to the end: only then does zipfile compare the check sum.
            members = {name: archive.read(f"{name}.npy") for name in NAMES}
        arrays = {name: _array(data) for name, data in members.items()}
    except FileNotFoundError:
        return None
    except Exception:  # a flipped bit makes zipfile and numpy raise almost anything
        raise Damaged(path, "cannot be read") from None
    if wrong := _problem(arrays):
        raise Damaged(path, wrong)
    return arrays


def _array(data: bytes) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return np.asarray(array)


def _problem(arrays: dict[str, np.ndarray]) -> str | None:
    """Return the first problem of a file's arrays; None if there is none."""
    labels, predictions, names = (arrays[name] for name in NAMES)
    if any(a.ndim != 1 or not a.size for a in arrays.values()) or len(labels) != len(predictions):
        return "does not hold one label and one prediction per image"
    if labels.dtype.kind not in "ui" or predictions.dtype.kind not in "ui":
        return "holds labels or predictions that are no whole numbers"
    if names.dtype.kind != "U":
        return "holds class names that are no text"
    for classes in (labels, predictions):
        if classes.min() < 0 or classes.max() >= len(names):
            return f"holds classes beyond its {len(names)}"
    try:
        "".join(names.tolist()).encode()
    except UnicodeEncodeError:
        return "holds class names that are no text"
    return None
