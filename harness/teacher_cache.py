"""Disk that the teachers' kept answers take in a store (harness.train.answers): how much, and what
goes first. Nothing here imports torch.

teacher-cache/KEY/key.json    what the answers depend on
teacher-cache/KEY/epoch-12    one file a pass over the images
"""

from __future__ import annotations

import shutil
from pathlib import Path

FOLDER = "teacher-cache"
KEY_FILE = "key.json"
RESERVE = 2 * 10**9  # bytes of the disk that are left to others


def kept_files(root: Path) -> list[Path]:
    """All files of kept answers below a `teacher-cache`, those of the teacher that was asked least
    recently first, and of one teacher the oldest first."""
    files = []
    for path in root.glob("*/*"):
        if path.name == KEY_FILE:
            continue
        try:
            files.append((path.parent.stat().st_mtime, path.stat().st_mtime, path))
        except FileNotFoundError:  # another process makes room
            continue
    return [path for _, _, path in sorted(files)]


def make_room(folder: Path, size: int, limit: int) -> bool:
    """Remove what is oldest until `size` bytes more fit; whether they do.

    folder: of the teacher that needs them, whose own files stay.
    """
    sizes = {}
    for path in kept_files(folder.parent):
        try:
            sizes[path] = path.stat().st_size
        except FileNotFoundError:
            continue
    free = shutil.disk_usage(folder).free - RESERVE
    missing = max(sum(sizes.values()) + size - limit, size - free)
    for path, its in sizes.items():
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
    freed = sum(path.stat().st_size for path in kept_files(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return freed
