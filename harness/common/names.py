"""Names as people read and type them, and how a name from a disk is shown."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from pathlib import Path

# What would end a line, move the cursor or cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def normalise_name(name: str) -> str:
    """Equal for two names that look alike: composed characters, no spaces around or doubled."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def printable(name: object) -> str:
    """For a message: one line of text that every terminal takes, whatever bytes the name has."""
    return UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), str(name))


def command_name() -> str:
    """How the user calls `harness` here, to name the next command as it can be typed."""
    called = Path(sys.argv[0])
    if called.name != "harness" or shutil.which("harness"):
        return "harness"
    return os.path.relpath(called)
