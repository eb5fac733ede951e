"""Errors of the operating system as one line: the user's path, its words and the remedy."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness.common.exit_status import FAILED, WRONG_USE

# By the system's number: what helps. The first group is wrong input, as another path helps.
_WRONG_PATH = {
    errno.ENOENT: "check the path",
    errno.EACCES: "allow it, or use another folder",
    errno.EPERM: "allow it, or use another folder",
    errno.EROFS: "use another folder",
    errno.EISDIR: "move the folder away, or use another name",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EEXIST: "move it away, or use another name",
    errno.ENOTEMPTY: "move it away, or use another name",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "correct the link",
    errno.ENXIO: "move it away, or name an ordinary file",
}
_NO_ROOM = "free some space there, and repeat the command"
_REMEDIES = _WRONG_PATH | {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "raise the limit (`ulimit -f`), or use another disk",
    errno.ENOLCK: "use a folder on a disk that has locks, such as a local one",
    errno.EOPNOTSUPP: "use a folder on another disk, such as a local one",
    errno.EBUSY: "end what uses it, or mount its folder instead of the file",
    errno.EMFILE: "raise the limit (`ulimit -n`), or use fewer --jobs",
    errno.ENFILE: "close other programs, or use fewer --jobs",
    errno.EAGAIN: "raise the limit (`ulimit -u`), or use fewer --jobs",
    errno.ECHILD: "free some memory, or use fewer --jobs",
    errno.ENOMEM: "free some memory, or use fewer --jobs",
    errno.ECONNREFUSED: "check the address, and that its server runs",
    errno.ETIMEDOUT: "check the address and the network",
}
# A file that is being written has a hidden name beside its own (harness.common.temporary).
_TEMPORARY = re.compile(r"(?<![^/])\.([^/]+)\.[0-9a-f]+\.tmp(?![^/])")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the block name the user's file `path`: a failed write names no file at all."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def describe_os_error(error: OSError, path: Path | None = None) -> str:
    """Return one line with the path, what the system says and the remedy.

    `path` is where it happened, in case the error does not say it.
    """
    named = error.filename2 or error.filename or path
    what = error.strerror or str(error).strip() or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "check the path and its disk")
    where = [_TEMPORARY.sub(r"\1", os.fsdecode(named))] if named else []
    return ": ".join([*where, f"{what}; {remedy}"])


def exit_status_of(error: OSError) -> int:
    """Return the exit status of a command that ends with this error: wrong input, or a failure."""
    return WRONG_USE if error.errno in _WRONG_PATH else FAILED
