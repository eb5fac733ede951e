"""Disk space of the cached teacher outputs in a store, and which of them are evicted first.

harness.train.teacher_cache writes and reads them. Nothing here imports torch.

teacher-cache/KEY/key.json    what the answers depend on
teacher-cache/KEY/epoch-12    one file a pass over the images
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

FOLDER = "teacher-cache"
KEY_FILE = "key.json"
RESERVE = 2 * 10**9  # bytes of the disk that are left to others


def kept_files(root: Path) -> dict[Path, int]:
    """All files of kept answers below a `teacher-cache`, with their bytes: those of the teacher
    that was asked least recently first, and of one teacher the oldest first."""
    found = []
    for folder in _entries(root):
        for file in _entries(folder.path):
            if file.name == KEY_FILE:
                continue
            with contextlib.suppress(FileNotFoundError):  # another process makes room
                its = file.stat()
                found.append((folder.stat().st_mtime, its.st_mtime, file.path, its.st_size))
    return {Path(path): size for *_, path, size in sorted(found)}


def make_room(folder: Path, size: int, limit: int) -> bool:
    """Remove what is oldest until `size` bytes more fit; whether they do.

    folder: of the teacher that needs them, whose own files stay.
    """
    files = kept_files(folder.parent)
    free = shutil.disk_usage(folder).free - RESERVE
    missing = max(sum(files.values()) + size - limit, size - free)
    for path, its in files.items():
        if missing <= 0:
            break
        if path.parent != folder:
            path.unlink(missing_ok=True)
            missing -= its
    return missing <= 0


def clean(root: Path) -> int:
    """Remove all kept answers of a store; the bytes that this frees. A training that uses them
    computes them again."""
    folder = root / FOLDER
    freed = sum(kept_files(folder).values())
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it is none, or has been removed meanwhile."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
