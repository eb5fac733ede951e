"""What the `harness` command makes of its arguments before they are parsed."""

from __future__ import annotations

import re
from pathlib import Path

from harness.common.errors import UserError

LISTS = ("--point", "--devices")  # of numbers, which the releases write with spaces


def take_data_root(arguments: list[str]) -> tuple[list[str], str | None]:
    """The other arguments, and the folder of `--data-root DIR`, which every command takes."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--data-root", "--data_root"):
            rest = arguments[i + 1 :]
            if not equals:
                value, *rest = rest or [""]
            if not Path(value).is_dir() or not value:
                raise UserError(f"--data-root: no folder {value!r}; make it or correct the path")
            return [*arguments[:i], *rest], value
    return arguments, None


def published_spelling(arguments: list[str]) -> list[str]:
    """The releases' spelling in ours: --batch_size 64 -> --batch-size 64, and
    --point 100 140 180 -> --point 100,140,180, and so for --devices."""
    result: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            result.append(name.replace("_", "-") + equals + value)
        elif len(result) > 1 and result[-2] in LISTS and re.fullmatch(r"\d+", argument):
            result[-1] += f",{argument}"
        else:
            result.append(argument)
    return result
