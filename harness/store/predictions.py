"""Reader of predictions.npz: what a cell's reported weights predict for each test image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.common.npz import read_npz
from harness.store.cell_files import Damaged, read_bytes

NAMES = ("labels", "predictions", "class_names")
MOST_BYTES = 2**28  # those of all arrays; ten million test images take 40 MB


def read_predictions_file(path: Path) -> dict[str, np.ndarray] | None:
    """Read a predictions file.

    Returns:
        labels (N,), predictions (N,) and class_names (C,); None if there is no such file.

    Raises:
        Damaged: The file is not what was written.
    """
    try:
        arrays = read_npz(read_bytes(path), NAMES, MOST_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(path, str(error)) from None
    if wrong := _problem(arrays):
        raise Damaged(path, wrong)
    return arrays


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
