"""Locks that the kernel keeps, so that a lock ends with the process that holds it.

No lock can be stale, and no clock or process id has to be trusted. Locks on files use flock, which
also works between hosts on shared file systems that have it. The lock files are never deleted. The
`filelock` package is no substitute: it empties the file on opening it, so that a process that is
refused could not say who holds the lock, and it has no locks on byte ranges.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from harness.common.reading import open_file


class Busy(Exception):
    """Another process holds the lock.

    Attributes:
        holder: The text that its holder wrote into the lock file; may be empty.
    """

    def __init__(self, holder: str = "") -> None:
        super().__init__(holder or "another process")
        self.holder = holder


@contextlib.contextmanager
def locked(path: Path, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock on `path` until the block ends; wait while another process holds it.

    The file is created if missing; a link is never followed. If `waiting_for` says what the other
    process does, so does a line on stderr.

    Raises:
        OSError: The file cannot be created.
    """
    with open_file(path, "ab", os.O_NOFOLLOW) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting_for:
                print(f"waiting for another process: {waiting_for}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_lock(path: Path, holder: str = "") -> Iterator[None]:
    """Hold the lock on `path` until the block ends; do not wait for it.

    The file is created if missing, and a link is never followed. The text `holder` in it shows
    others who holds the lock.

    Raises:
        Busy: Another process holds the lock.
        OSError: The file cannot be created.
    """
    with open_file(path, "ab+", os.O_NOFOLLOW) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(file.read().decode("utf-8", "replace").strip()) from None
        if holder:
            file.truncate(0)
            file.write(holder.encode())
            file.flush()
        yield


def lock_file(file: IO[str] | IO[bytes]) -> None:
    """Lock an open file until it is closed; wait while another process holds it."""
    fcntl.flock(file, fcntl.LOCK_EX)


def is_locked(path: Path) -> bool:
    """Return whether a live process holds the lock on `path`, without creating the file."""
    try:
        with open_file(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def try_lock_bytes(fd: int, start: int, length: int) -> Iterator[bool]:
    """Try to hold a lock on part of an open file until the block ends.

    Unlike locks on whole files, these do not keep the threads of one process apart.

    Yields:
        Whether this process now holds the lock.
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, length, start)
