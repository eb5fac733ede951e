"""The memory of this machine. Nothing here imports torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def host_memory() -> tuple[int, int]:
    """Return the bytes of memory that are free, and all that this process may use.

    A container may use less than the machine has. Where nothing says what is free, all is.
    """
    total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (PROC / "meminfo").read_text().splitlines()
        free = 1024 * int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0])
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        total, free = min(total, limit), min(free, max(0, limit - used))
    return free, total
