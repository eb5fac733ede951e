"""What of a folder belongs to a data set: the one place that says so.

- What is hidden, and what file managers, archivers and file servers leave behind (`is_litter`), is
  no data anywhere.
- A part is a folder, or a parquet file, called train or test or another word for it (`part_of`:
  Training, test_set). Folders with such names are parts if they hold folders, and classes of that
  name if they hold images. Parts of which one is missing or double are refused.
- A class is a folder in a part, or in the data set if that has no parts.
- An image is every file below a class, also in folders of it and behind links. One that cannot be
  read is refused, whatever it is called. A folder is read once: for two classes, it is refused.

What else is there is left out, and counted with its reason for `harness plan`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.common.errors import UserError
from harness.common.names import normalise_name, printable

TRAIN, TEST, VALIDATION = "train", "test", "validation"
# Part -> the words for it. Validation images are always drawn from those of train.
WORDS = {
    TRAIN: ("train", "training", "trn"),
    TEST: ("test", "testing", "tst"),
    VALIDATION: ("validation", "valid", "val", "dev", "eval", "evaluation"),
}
SUFFIX = r"[ _.-]*(set|data|images?|imgs?|split|folder|dir)?[ _.-]*\d*"
LITTER = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt", "icon\r",
    "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip
NOT_DRAWN = "validation images are drawn from the training images"


@dataclass(frozen=True)
class LeftOut:
    """count: of files, or of folders that were not looked into; example: one of them."""

    reason: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count} {self.reason} ({printable(self.example)})"


@dataclass
class Tally:
    """Counts what is left out, by reason."""

    found: dict[str, LeftOut] = field(default_factory=dict)

    def add(self, reason: str, example: str | Path, count: int = 1) -> None:
        known = self.found.get(reason)
        first = known.example if known else str(example)
        self.found[reason] = LeftOut(reason, count + (known.count if known else 0), first)

    def lines(self) -> tuple[LeftOut, ...]:
        return tuple(self.found.values())


def is_litter(name: str) -> bool:
    """Whether no person has put it there."""
    return name.startswith((".", "~$")) or name.lower() in LITTER


def part_of(name: str) -> str | None:
    """TRAIN, TEST or VALIDATION if a folder of this name would be one."""
    for part, words in WORDS.items():
        if re.fullmatch(f"({'|'.join(words)}){SUFFIX}", name.casefold()):
            return part
    return None


def _mentioned(name: str) -> set[str]:
    """The parts that are words in a name: seg_train."""
    words = re.findall("[a-z]+", name.casefold())
    return {part for part, known in WORDS.items() if {*words} & {*known}}


@dataclass(frozen=True)
class _Scan:
    """What lies in one folder, by name, without litter."""

    folders: list[str]
    files: list[str]


def _scan(folder: str, left: Tally) -> _Scan:
    """
    Raises:
        UserError: the folder cannot be read, or a link in it leads nowhere.
    """
    found = _Scan([], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise UserError(
            f"dataset: cannot read {printable(folder)} ({error.strerror}); allow it"
        ) from None
    for entry in entries:
        if is_litter(entry.name):
            left.add("hidden, or left behind by a program", entry.path)
            continue
        try:
            if entry.is_dir():
                found.folders.append(entry.name)
            elif entry.is_file():
                found.files.append(entry.name)
            else:
                os.stat(entry.path)
                left.add("neither a file nor a folder", entry.path)
        except OSError as error:
            raise UserError(
                f"dataset: cannot read {printable(entry.path)} ({error.strerror}); restore it, or "
                "remove the link"
            ) from None
    return found


def n_files(folder: str) -> int:
    """How many files lie below, without litter; links are not followed."""
    n = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not is_litter(f)]
        n += sum(not is_litter(f) for f in files)
    return n


def find_parts(path: Path, left: Tally) -> tuple[Path, Path | None]:
    """The folders that hold the classes: of the training images, and of the test images if there
    is a part of them. What lies beside the parts is left out.

    Raises:
        UserError: a part is missing or there twice, or holds images without classes.
    """
    beside = Tally()
    root = _scan(str(path), beside)
    holds = {name: _scan(str(path / name), Tally()) for name in root.folders}
    parts = {name: part for name in root.folders if (part := part_of(name))}
    if not any(holds[name].folders for name in parts):
        _check_no_parts(path, holds, parts)
        return path, None
    chosen = {}
    for part in (TRAIN, TEST):
        named = [name for name in parts if parts[name] == part]
        if len(named) > 1:
            raise UserError(
                f"dataset.path: {path} has {named[0]}/ and {named[1]}/ for the {part} images; put "
                "them together, or remove one"
            )
        if named:
            chosen[part] = named[0]
    for part in (TRAIN, TEST):
        if part not in chosen:
            raise UserError(
                f"dataset.path: {path} has no folder {part}/ beside the other one, "
                f"{next(iter(parts))}/; add it (a link will do), or give the folder that holds the "
                "classes"
            )
    for name in root.folders:
        if name not in chosen.values():
            why = NOT_DRAWN if parts.get(name) == VALIDATION else "neither train nor test"
            folder = str(path / name)
            left.add(f"in {printable(name)}/: {why}", folder, n_files(folder))
    for name in root.files:
        left.add("beside train/ and test/", path / name)
    left.found.update(beside.found)
    train, test = (_innermost(path / chosen[part]) for part in (TRAIN, TEST))
    return train, test


def _innermost(part: Path) -> Path:
    """training_set/training_set, as some archives unpack, is the inner one."""
    inside = _scan(str(part), Tally())
    while inside.folders == [part.name] and not inside.files:
        part /= part.name
        inside = _scan(str(part), Tally())
    return part


def _check_no_parts(path: Path, holds: dict[str, _Scan], parts: dict[str, str]) -> None:
    """
    Raises:
        UserError: the folders look like parts, so they can hardly be classes.
    """
    images = [name for name in parts if holds[name].files]
    if images and (len({parts[n] for n in images}) > 1 or len(parts) == len(holds)):
        raise UserError(
            f"dataset.path: {path}/{images[0]} holds images, but no folder for each class; make "
            "some, in train/ and in test/"
        )
    nested = [n for n, inside in holds.items() if inside.folders and not inside.files]
    mentioned = {n: found for n in nested if (found := _mentioned(n))}
    if len(set().union(*mentioned.values())) > 1:
        first, second = list(mentioned)[:2] if len(mentioned) > 1 else (next(iter(mentioned)), "")
        names = f"{first}/ and {second}/ look" if second else f"{first}/ looks"
        raise UserError(
            f"dataset.path: in {path}, {names} like parts, not classes; call them train/ and test/"
        )
    for name, inside in holds.items():
        within = {part_of(f): f for f in inside.folders if part_of(f)}
        if len(within) > 1:
            a, b = sorted(within.values())[:2]
            raise UserError(
                f"dataset.path: {path / name} holds {a}/ and {b}/; give it as the path if it is "
                "the data set, or put the classes into the parts"
            )


@dataclass
class Reader:
    """Lists the parts of one data set.

    readers: which class of which part a folder was read for, by device and inode: each once.
    """

    left: Tally
    readers: dict[tuple[int, int], str] = field(default_factory=dict)

    def class_files(self, part: Path) -> dict[str, list[str]]:
        """Class -> its files, sorted.

        Raises:
            UserError: no folders, or two of one name, or one that is read for another class, or a
                name that cannot be shown.
        """
        inside = _scan(str(part), self.left)
        for name in inside.files:
            self.left.add("beside the class folders", part / name)
        if not inside.folders:
            raise UserError(f"dataset: {part}: no folders in it; make one for each class")
        names: dict[str, str] = {}
        for name in inside.folders:
            if printable(name) != name:
                raise UserError(
                    f"dataset: {part}: the name of class {printable(name)} is not plain UTF-8 "
                    "text; rename the folder"
                )
            same = names.setdefault(normalise_name(name), name)
            if same != name:
                raise UserError(
                    f"dataset: {part}: two folders {name!r} look alike, but are spelt with "
                    "different characters; put them together"
                )
        return {name: sorted(self._below(part / name)) for name in inside.folders}

    def _below(self, folder: Path) -> Iterator[str]:
        """The files of a class."""
        real = os.path.realpath(folder)
        above = [*Path(os.path.abspath(folder)).parents, *Path(real).parents]
        up = {_identity(str(f)) for f in above}
        pending = [str(folder)]
        while pending:
            here = pending.pop()
            identity = _identity(here)
            if identity in up:
                self.left.add("a link to a folder that it lies in", here)
                continue
            reader = self.readers.get(identity)
            if reader is not None:
                if reader != str(folder):
                    raise UserError(
                        f"dataset: {printable(here)} is read for {printable(reader)} already; "
                        "remove the link from one of them"
                    )
                self.left.add("a link to a folder that is read already", here)
                continue
            self.readers[identity] = str(folder)
            inside = _scan(here, self.left)
            yield from (os.path.join(here, name) for name in inside.files)
            pending += [os.path.join(here, name) for name in reversed(inside.folders)]


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def parquet_files(folder: Path, part: str) -> list[Path]:
    """The parquet files of a part in a folder, or else in the one folder below that has some.

    Raises:
        UserError: several folders have some, or one of a numbered row is missing.
    """
    every = [f for f in all_parquet(folder) if parquet_part(f, folder) == part]
    found = [f for f in every if f.parent == folder] or every
    parents = sorted({p.parent for p in found})
    if len(parents) > 1:
        raise UserError(
            f"dataset.path: {part}*.parquet in {parents[0]} and in {parents[1]}; give the one "
            "that is meant"
        )
    _check_row(found)
    return found


def all_parquet(folder: Path) -> list[Path]:
    """Sorted; without litter."""
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not is_litter(f)]
        identity = _identity(parent)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        found += [
            Path(parent, name)
            for name in names
            if name.lower().endswith(".parquet") and not is_litter(name)
        ]
    return sorted(found)


def parquet_part(file: Path, folder: Path) -> str | None:
    """By the first letters of its name, or else by the name of a folder of its own."""
    for part, words in WORDS.items():
        if file.name.casefold().startswith(words):
            return part
    return part_of(file.parent.name) if file.parent != folder else None


def _check_row(files: Iterable[Path]) -> None:
    """Of train-00000-of-00003.parquet there must be three."""
    rows: dict[str, dict[int, set[int]]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*?)-?(\d{1,9})-of-(\d{1,9})", file.stem):
            rows.setdefault(match[1], {}).setdefault(int(match[3]), set()).add(int(match[2]))
    for name, totals in rows.items():
        for total, numbers in totals.items():
            if len(totals) > 1 or len(numbers) != total:
                have = " and ".join(f"{len(n)} of {t}" for t, n in totals.items())
                raise UserError(
                    f"dataset.path: of {name}-*-of-*.parquet there are {have} files; fetch them "
                    "again, or name those that are meant with dataset.train and dataset.test"
                )
