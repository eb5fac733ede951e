"""Files that are written completely or not at all, and the temporary files that kills leave."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.common.locks import is_locked, lock_file
from harness.common.temporary import temporary_path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file durably; a reader sees the old file or the new one, never a part."""
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            lock_file(file)  # held until the file has its name: see `sweep`
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        return write_atomically(path, data)  # swept before it was locked, or where no lock is seen
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left.

    Those of a checkpoint stay until the cell is done: one may be the last good checkpoint
    (`harness repair`).
    """
    for path in folder.glob(".*.tmp"):
        is_ours = re.fullmatch(r"\.(?!checkpoint\.).+\.[0-9a-f]+\.tmp", path.name)
        if is_ours and not is_locked(path):
            path.unlink(missing_ok=True)
