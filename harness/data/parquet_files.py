"""Decide which parquet files of a folder belong to which part of a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from harness.common.errors import UserError
from harness.data.listing import WORDS, identity_of, is_litter, part_of


def parquet_files(folder: Path, part: str) -> list[Path]:
    """Return the parquet files of a part in a folder, or else in the one subfolder with some.

    Raises:
        UserError: Several folders have some, or a numbered file is missing.
    """
    below = [f for f in all_parquet(folder) if parquet_part(f, folder) == part]
    files = [f for f in below if f.parent == folder] or below
    parents = sorted({f.parent for f in files})
    if len(parents) > 1:
        raise UserError(
            f"dataset.path: {part}*.parquet in {parents[0]} and in {parents[1]}; give the one "
            "that is meant"
        )
    _check_numbered_files(files)
    return files


def all_parquet(folder: Path) -> list[Path]:
    """Return all parquet files below a folder, sorted and without litter."""
    files, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not is_litter(f)]
        identity = identity_of(parent)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        files += [
            Path(parent, name)
            for name in names
            if name.lower().endswith(".parquet") and not is_litter(name)
        ]
    return sorted(files)


def parquet_part(file: Path, folder: Path) -> str | None:
    """Return the part that the file's name begins with, or else its subfolder's name means."""
    for part, words in WORDS.items():
        if file.name.casefold().startswith(words):
            return part
    return part_of(file.parent.name) if file.parent != folder else None


def _check_numbered_files(files: Iterable[Path]) -> None:
    """Check that there are three files such as train-00000-of-00003.parquet.

    Raises:
        UserError: A file is missing, or the numbers do not fit together.
    """
    series: dict[str, dict[int, set[int]]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*?)-?(\d{1,9})-of-(\d{1,9})", file.stem):
            series.setdefault(match[1], {}).setdefault(int(match[3]), set()).add(int(match[2]))
    for name, totals in series.items():
        for total, numbers in totals.items():
            if len(totals) > 1 or len(numbers) != total:
                have = " and ".join(f"{len(n)} of {t}" for t, n in totals.items())
                raise UserError(
                    f"dataset.path: of {name}-*-of-*.parquet there are {have} files; fetch them "
                    "again, or name those that are meant with dataset.train and dataset.test"
                )
