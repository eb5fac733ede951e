"""The finished cells whose files were read and found whole, so that nobody has to read them again.

`checked.json` in the store's root says how the files of each such cell were when they were read:
size, times and inode. Every program that writes to a file changes its ctime, which none can set, so
a cell is whole as long as they are the same. Only what changes below the file system, on a failing
disk, is not seen. The file is derived: losing it, or copying the store, checks its cells anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from pydantic import StrictBool, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.common.reading import read_file
from harness.store.cell_files import parse_json, sealed, unsealed
from harness.store.files import write_atomically

NAME = "checked.json"
FILES = ("cell.json", "manifest.json", "model.pt", "journal.jsonl")
# Two writes within one tick of a file system's clock may have the same ctime; FAT's takes 2 s.
TICK = 2 * 10**9  # nanoseconds


@dataclass(frozen=True)
class Whole:
    """A finished cell that was found whole.

    Attributes:
        files: How its files were (`signature`).
        epochs: The epochs in its journal.
        is_unchecked: Whether one of its files has no checksum (`CellDir.unchecked`).
    """

    files: StrictStr
    epochs: StrictInt
    is_unchecked: StrictBool


_ENTRIES = TypeAdapter(dict[str, Whole])


def signature(cell: Path) -> str:
    """Return how the files of a cell are now; "" if one is missing or was written just now.

    Take it before the files are read: what changes meanwhile then has another one.
    """
    words, newest = [], 0
    for name in FILES:
        try:
            found = os.stat(f"{cell}/{name}")
        except OSError:
            return ""
        newest = max(newest, found.st_ctime_ns)
        words.append(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}")
    return ", ".join(words) if newest + TICK < time.time_ns() else ""


def read_whole(root: Path) -> dict[str, Whole]:
    """Return the cells of a store that were found whole, by the name of their directory."""
    try:
        content = parse_json(unsealed(read_file(root / NAME), root))
        return _ENTRIES.validate_python(content)
    except (OSError, ValueError, ValidationError):
        return {}


def record_whole(root: Path, cells: dict[str, Whole]) -> None:
    """Replace the record of a store; nothing happens if it may not be written."""
    content = _ENTRIES.dump_python(cells)
    with contextlib.suppress(OSError):
        write_atomically(root / NAME, sealed(content, root))
