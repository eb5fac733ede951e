"""Changes to the arguments of `harness` before they are parsed."""

from __future__ import annotations

import re
from pathlib import Path

from harness.common.errors import UserError

LIST_OPTIONS = ("--point", "--devices")  # numbers, which the releases separate by spaces


def take_data_root(arguments: list[str]) -> tuple[list[str], str | None]:
    """Remove `--data-root DIR`, which every command takes.

    Returns:
        The other arguments, and the folder; None if it is not given.

    Raises:
        UserError: There is no such folder.
    """
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
    """Return the arguments with the published spelling of options replaced by ours.

    --batch_size 64 becomes --batch-size 64, and --point 100 140 180 becomes --point 100,140,180,
    likewise for --devices.
    """
    result: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            result.append(name.replace("_", "-") + equals + value)
        elif len(result) > 1 and result[-2] in LIST_OPTIONS and re.fullmatch(r"\d+", argument):
            result[-1] += f",{argument}"
        else:
            result.append(argument)
    return result
