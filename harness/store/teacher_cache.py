"""The disk space of the cached teacher outputs in a store: which are evicted first.

harness.train.teacher_cache writes and reads them. Links are never followed: what they lead to is
not ours to count, to overwrite or to delete. Nothing here imports torch.

teacher-cache/KEY/key.json    what the outputs depend on
teacher-cache/KEY/epoch-12    one file per pass over the images
"""

from __future__ import annotations

import contextlib
import errno
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
        for file in _entries(folder):
            if file.name == KEY_FILE or not file.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(FileNotFoundError):  # another process is evicting
                stat = file.stat()
                used = os.stat(folder).st_mtime
                files.append((used, stat.st_mtime, file.path, stat.st_size))
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


def check_no_link(folder: Path) -> None:
    """Check that a folder of the cache is none that lies elsewhere.

    Raises:
        OSError: It is a link.
    """
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a link, which is not followed", str(folder))


def clean(root: Path) -> tuple[int, OSError | None]:
    """Remove all cached teacher outputs of a store. A training computes what it needs again.

    Returns:
        The bytes that this freed, and the first error if something is left.
    """
    folder, errors = root / FOLDER, []
    before = sum(cached_files(folder).values())
    try:
        check_no_link(folder)
        shutil.rmtree(folder, onerror=lambda *error: errors.append(error[2][1]))
    except OSError as error:
        errors.append(error)
    left = [e for e in errors if not isinstance(e, FileNotFoundError)]  # gone is gone
    return before - sum(cached_files(folder).values()), next(iter(left), None)


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; none if it is no folder, is a link, or has been removed."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not folder.is_symlink():
            with os.scandir(folder) as entries:
                return list(entries)
    return []
