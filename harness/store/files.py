"""Files that are written completely or not at all, and the temporary files that kills leave."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.common.locks import is_locked, lock_file


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file durably; a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            lock_file(file)  # held until the file has its name: see `sweep`
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
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
        match = re.fullmatch(r"\.(?!checkpoint\.).+\.(\d+)\.tmp", path.name)
        if match and not _is_alive(int(match[1])) and not is_locked(path):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Return whether this machine has a process with this id; one elsewhere holds a lock."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
