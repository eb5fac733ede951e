"""Opening files in whose place there may be a pipe, a folder, a device or a link to nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO


class NotAFile(OSError):
    """Something else has the name of a file, such as a pipe, into which nobody may ever write."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.ENXIO, f"{what}, not a file", str(path))


# By the system's number, when it refuses to open it.
_OTHERS = {errno.EISDIR: "a folder", errno.ENXIO: "a socket", errno.ELOOP: "a link"}


def open_file(path: Path, mode: str = "rb", flags: int = 0) -> IO[bytes]:
    """Open a file; the call never waits for another process.

    Args:
        path: The file.
        mode: As for `open`, in binary.
        flags: More flags for the system, such as O_NOFOLLOW, for which a link is no file.

    Raises:
        FileNotFoundError: There is no such file.
        NotAFile: Something else has its name.
        OSError: It cannot be opened.
    """

    def opener(_: str, own: int) -> int:
        file = os.open(path, own | flags | os.O_NONBLOCK, 0o666)
        kind = os.fstat(file).st_mode
        if stat.S_ISREG(kind):
            return file
        os.close(file)
        folder = "a folder" if stat.S_ISDIR(kind) else "a device"
        raise NotAFile(path, "a pipe" if stat.S_ISFIFO(kind) else folder)

    try:
        return open(path, mode, opener=opener)
    except FileNotFoundError:
        if path.is_symlink():
            raise NotAFile(path, "a link to nothing") from None
        raise
    except OSError as error:
        if error.errno in _OTHERS and not isinstance(error, NotAFile):
            raise NotAFile(path, _OTHERS[error.errno]) from None
        raise


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: See `open_file`.
    """
    with open_file(path) as file:
        return file.read()


def read_user_text(path: Path) -> str:
    """Return the text of a file of the user's: UTF-8, with or without a byte order mark.

    Raises:
        OSError: See `open_file`.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_file(path).decode("utf-8-sig")
