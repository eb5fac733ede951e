"""The data root: where data sets are looked for and downloaded to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_root: ContextVar[str | Path | None] = ContextVar("data_root", default=None)


def data_root() -> Path:
    """Return the path given to `using_data_root`, else $HARNESS_DATA_ROOT, else ./data."""
    root = _root.get() or os.environ.get("HARNESS_DATA_ROOT") or "data"
    return Path(os.path.abspath(Path(root).expanduser()))


@contextmanager
def using_data_root(path: str | Path | None) -> Iterator[None]:
    """Make `path` the data root in this thread until the block ends; None changes nothing."""
    if path is None:
        yield
        return
    token = _root.set(path)
    try:
        yield
    finally:
        _root.reset(token)
