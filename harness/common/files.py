"""Files that are written completely or not at all: those of a store, and those of the user."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from harness.common.errors import UserError
from harness.common.locks import lock_file
from harness.common.os_errors import naming
from harness.common.temporary import remove_temporary, temporary_path


def write_atomically(path: Path, data: bytes, like: Path | None = None) -> None:
    """Write a file durably; a reader sees the old file or the new one, never a part.

    Args:
        path: The file.
        data: Its content.
        like: A file whose owner and permissions the new one gets.

    Raises:
        OSError: The file cannot be written; its `filename` is `path`.
    """
    with naming(path):
        _write(path, data, like)


def _write(path: Path, data: bytes, like: Path | None, tries: int = 5) -> None:
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            # Held until the file has its name: a sweep removes what is not locked. A disk without
            # locks is no reason to fail, as what is swept is written again.
            with contextlib.suppress(OSError):
                lock_file(file)
            if like is not None:
                status = like.stat()
                with contextlib.suppress(OSError):  # only root may give a file away
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                with contextlib.suppress(OSError):  # some disks have no permissions
                    shutil.copystat(like, temporary)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except FileNotFoundError:
        if not path.parent.is_dir() or tries == 1:  # some folders, as /proc, take no file
            raise
        # Swept before it was locked, or where no lock is seen; or `like` has just been removed.
        return _write(path, data, like if like and like.exists() else None, tries - 1)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_user_file(path: Path, content: str | bytes) -> None:
    """Write a file of the user's: a page, a table, a figure, a bundle or what a command prints.

    Its folder is made if it is missing. What is replaced keeps its permissions, and a link stays a
    link. A pipe or a device, such as /dev/stdout, is written to.

    Raises:
        OSError: The file cannot be written, and is as it was; the error's `filename` is `path`.
    """
    # Names of files need not be UTF-8.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with naming(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data, like=target if target.is_file() else None)
        remove_temporary(target)


def check_ending(path: Path, ending: str) -> None:
    """Check that what `--out` names ends as such files do: it might be another file of the user's.

    Raises:
        UserError: It does not.
    """
    if path.suffix != ending and (path.is_file() or not path.exists()):
        raise UserError(f"--out: {path} does not end with {ending}; give it that ending")


def check_output(path: Path) -> None:
    """Check, before the work for it, that a file of the user's may be written there.

    Raises:
        OSError: It is a folder, or its own folder is missing.
    """
    number = errno.EISDIR if path.is_dir() else 0
    if not path.parent.is_dir():
        number = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    if number:
        raise OSError(number, os.strerror(number), str(path))


def check_room(folder: Path) -> None:
    """Check that the folder takes another file of some bytes.

    Raises:
        OSError: It does not, as its disk is full, for example; the error's `filename` is `folder`.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
