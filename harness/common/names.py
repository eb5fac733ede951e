"""Names as people read and type them, and as messages show them."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from pathlib import Path

# Characters that end a line, move the cursor or cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def normalise_name(name: str) -> str:
    """Return a form that is equal for names that look alike.

    Characters are composed; spaces around the name are dropped, and doubled ones merged.
    """
    return " ".join(unicodedata.normalize("NFC", name).split())


def printable(name: object) -> str:
    """Return one line of text that any terminal can show, whatever bytes the name has."""
    return UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), str(name))


def spreadsheet_text(name: object) -> str:
    """Return a name as a field of a CSV file, on one line and never taken for a formula."""
    text = printable(name)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def command_name() -> str:
    """Return how the user called `harness`, so that the next command can be typed."""
    called = Path(sys.argv[0])
    if shutil.which("harness"):
        return "harness"
    if called.parts[-2:] == ("harness", "__main__.py"):
        return f"{os.path.relpath(sys.executable)} -m harness"
    return os.path.relpath(called) if called.name == "harness" else "harness"


def as_called(text: str) -> str:
    """Return a message in which `harness COMMAND` is spelled as the user called this one."""
    return text.replace("`harness ", f"`{command_name()} ")
