"""Names of what is written aside and renamed when it is complete, and a folder of the user's own.

Names are random: processes in two containers may have the same id, and locks may not reach from
one to the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from harness.common.errors import UserError


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside `path` that nobody else uses; open it with "x" or `mkdir`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_temporary(path: Path) -> None:
    """Remove all that was begun beside `path`, which is complete now."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.tmp")  # the user may have others
    for begun in filter(lambda other: ours.fullmatch(other.name), path.parent.glob(".*.tmp")):
        if begun.is_dir():
            shutil.rmtree(begun, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                begun.unlink()


def user_folder() -> Path:
    """Return this user's folder for temporary files; make it if it is missing.

    Raises:
        UserError: Somebody else has taken its name, or may write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"harness-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_own or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{folder}: other users can write there; remove it, or set TMPDIR to a folder of your "
            "own"
        )
    return folder
