"""Standard output and error that cannot stop a command.

They survive a reader that goes away (`harness run | head`), a closed terminal, a full disk under a
log, closed streams (`>&-`), and signs or names of files that their encoding lacks.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys

# What tables and messages print where the encoding lacks the sign; anything else is escaped.
PLAIN_SIGNS = str.maketrans({"±": "+-", "→": "->", "–": "-", "—": "-", "·": "*", "…": "..."})


def _replace_signs(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded (an error handler of `codecs`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN_SIGNS)
    return text.encode("ascii", "backslashreplace").decode(), error.end


REPLACE_SIGNS = "harness.replace_signs"
codecs.register_error(REPLACE_SIGNS, _replace_signs)
CHOSEN = ("replace", "ignore", "xmlcharrefreplace", "namereplace")  # by PYTHONIOENCODING


class _Lasting(io.FileIO):
    """A file that drops what cannot be written."""

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data).cast("B"))


def keep_output_open() -> None:
    """Reopen closed standard streams and make the others robust.

    Call this before any file is opened: the next file would get the number of a closed stream, and
    what is printed would end up in it. The processes of cells inherit the streams.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    sys.stdout = sys.__stdout__ = _stream(sys.__stdout__, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(sys.__stderr__, 2)  # type: ignore[misc]


def _stream(old: io.TextIOWrapper | None, number: int) -> io.TextIOWrapper:
    if old is not None:
        with contextlib.suppress(OSError):
            old.flush()
    raw = _Lasting(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding=old.encoding if old is not None else "utf-8",
        errors=old.errors if old is not None and old.errors in CHOSEN else REPLACE_SIGNS,
        line_buffering=number == 2 or os.isatty(number),
    )
