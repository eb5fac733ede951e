"""The disk space of the cached teacher outputs in a store: which are evicted first.

harness.train.teacher_cache writes and reads them. Nothing here imports torch.

teacher-cache/KEY/key.json    what the outputs depend on
teacher-cache/KEY/epoch-12    one file per pass over the images
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

FOLDER = "teacher-cache"
KEY_FILE = "key.json"
RESERVE = 2 * 10**9  # bytes of the disk that are left to others


def cached_files(root: Path) -> dict[Path, int]:
    """Return the cached files below a `teacher-cache` folder, with their sizes in bytes.

    Files of the least recently used teacher come first, and of one teacher the oldest.
    """
    files = []
    for folder in _entries(root):
        for file in _entries(folder.path):
            if file.name == KEY_FILE:
                continue
            with contextlib.suppress(FileNotFoundError):  # another process is evicting
                stat = file.stat()
                files.append((folder.stat().st_mtime, stat.st_mtime, file.path, stat.st_size))
    return {Path(path): size for *_, path, size in sorted(files)}


def make_room(folder: Path, size: int, limit: int) -> bool:
    """Evict the oldest files until `size` bytes more fit; return whether they do.

    Args:
        folder: The folder of the teacher that needs the space; its own files stay.
        size: The bytes that are needed.
        limit: The bytes that all cached files together may have.
    """
    files = cached_files(folder.parent)
    free = shutil.disk_usage(folder).free - RESERVE
    missing = max(sum(files.values()) + size - limit, size - free)
    for path, file_size in files.items():
        if missing <= 0:
            break
        if path.parent != folder:
            path.unlink(missing_ok=True)
            missing -= file_size
    return missing <= 0


def clean(root: Path) -> int:
    """Remove all cached teacher outputs of a store; return the bytes that this frees.

    A training that uses them computes them again.
    """
    folder = root / FOLDER
    freed = sum(cached_files(folder).values())
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; none if it is no folder or has been removed."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
