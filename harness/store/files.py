"""The files of a cell are written atomically; here are the temporary files that kills leave."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from harness.common.files import write_atomically
from harness.common.locks import is_locked
from harness.common.reading import NotAFile

__all__ = ["sweep", "write_atomically"]


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left.

    Those of a checkpoint stay until the cell is done: one may be the last good checkpoint
    (`harness repair`).
    """
    for path in folder.glob(".*.tmp"):
        is_ours = re.fullmatch(r"\.(?!checkpoint\.).+\.[0-9a-f]+\.tmp", path.name)
        with contextlib.suppress(NotAFile):  # not ours, after all
            if is_ours and not is_locked(path):
                path.unlink(missing_ok=True)
