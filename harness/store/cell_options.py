"""What a training needs to know of the machine it runs on (options.json of a cell)."""

from __future__ import annotations

from typing import Any

from harness.data import DatasetOptions, data_root


def cell_options(
    dataset: DatasetOptions, n_workers: int = 0, teacher_cache: int = 0
) -> dict[str, Any]:
    """Of `Store.prepare`: what a training needs to know of this machine, as plain JSON data.

    Args:
        n_workers: of each cell's loaders.
        teacher_cache: bytes that the teachers' answers may take in the store; 0 keeps none.
    """
    return {
        "dataset": dataset.model_dump(mode="json"),
        "data_root": str(data_root()),
        "n_workers": n_workers,
        "teacher_cache": teacher_cache,
    }
