"""Names of what is written aside and renamed when it is complete.

The names are random: processes in two containers may have the same id, and locks may not reach from
one to the other.
"""

from __future__ import annotations

import contextlib
import glob
import secrets
import shutil
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside `path` that nobody else uses; open it with "x" or `mkdir`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_temporary(path: Path) -> None:
    """Remove all that was begun beside `path`, which is complete now."""
    for begun in path.parent.glob(f".{glob.escape(path.name)}.*tmp"):
        if begun.is_dir():
            shutil.rmtree(begun, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                begun.unlink()
