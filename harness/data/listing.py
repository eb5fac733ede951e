"""Decide which files of a folder belong to a data set; nothing else decides it.

- Hidden files, and files that file managers, archivers and file servers leave behind (`is_litter`),
  are never data.
- A part is a folder, or a parquet file, called train or test or another word for it (`part_of`:
  Training, test_set). Folders with such names are parts if they hold folders, and classes of that
  name if they hold images. A part that is missing or there twice is an error.
- A class is a folder in a part, or in the data set if that has no parts.
- Every file below a class is an image, also in subfolders and behind links. One that cannot be
  read is an error, whatever its name. So is a folder that is read for two classes.

All other files are left out, and counted by reason for `harness plan`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from harness.common.errors import UserError
from harness.common.names import normalise_name, printable

TRAIN, TEST, VALIDATION = "train", "test", "validation"
# Part -> the words for it. Validation images are drawn from the training images, unless asked for.
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
NOT_DRAWN = "validation images are drawn from the training images, unless dataset.validation is {}"


NO_VALIDATION = (
    "dataset.validation: {} has no folder val/; add it, or give the number of images to hold out "
    "of the training images"
)


@dataclass(frozen=True)
class LeftOut:
    """Files, or folders that were not searched, that are left out for one reason.

    Attributes:
        reason: The reason.
        count: Their number.
        example: One of them.
    """

    reason: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count} {self.reason} ({printable(self.example)})"


@dataclass
class Tally:
    """Counts the files that are left out, by reason."""

    reasons: dict[str, LeftOut] = field(default_factory=dict)

    def add(self, reason: str, example: str | Path, count: int = 1) -> None:
        """Count `count` more files; the first example is kept."""
        before = self.reasons.get(reason, LeftOut(reason, 0, str(example)))
        self.reasons[reason] = LeftOut(reason, before.count + count, before.example)

    def left_out(self) -> tuple[LeftOut, ...]:
        """Return the counts, in the order in which the reasons came up."""
        return tuple(self.reasons.values())


def is_litter(name: str) -> bool:
    """Return whether a program, and no person, has put a file of this name there."""
    return name.startswith((".", "~$")) or name.lower() in LITTER


def part_of(name: str) -> str | None:
    """Return TRAIN, TEST or VALIDATION if it is the meaning of a folder's name, else None."""
    for part, words in WORDS.items():
        if re.fullmatch(f"({'|'.join(words)}){SUFFIX}", name.casefold()):
            return part
    return None


def _mentioned_parts(name: str) -> set[str]:
    """Return the parts that are words in a name such as seg_train."""
    words = re.findall("[a-z]+", name.casefold())
    return {part for part, known in WORDS.items() if {*words} & {*known}}


@dataclass(frozen=True)
class _Contents:
    """The names of the folders and files in one folder, without litter."""

    folders: list[str]
    files: list[str]


def _scan(folder: str, tally: Tally) -> _Contents:
    """Return the folders and files that lie in a folder.

    Raises:
        UserError: The folder cannot be read, or a link in it leads nowhere.
    """
    contents = _Contents([], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise UserError(
            f"dataset: cannot read {printable(folder)} ({error.strerror}); allow it"
        ) from None
    for entry in entries:
        if is_litter(entry.name):
            tally.add("hidden, or left behind by a program", entry.path)
            continue
        try:
            if entry.is_dir():
                contents.folders.append(entry.name)
            elif entry.is_file():
                contents.files.append(entry.name)
            else:
                os.stat(entry.path)
                tally.add("neither a file nor a folder", entry.path)
        except OSError as error:
            raise UserError(
                f"dataset: cannot read {printable(entry.path)} ({error.strerror}); restore it, or "
                "remove the link"
            ) from None
    return contents


def n_files(folder: str) -> int:
    """Return how many files lie below a folder, without litter; links are not followed."""
    n = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not is_litter(f)]
        n += sum(not is_litter(f) for f in files)
    return n


@dataclass(frozen=True)
class Parts:
    """The folders that hold the classes of each part; None for a part that has no folder."""

    train: Path
    test: Path | None = None
    validation: Path | None = None


def find_parts(
    path: Path, tally: Tally, takes_validation: bool = False, draws_test: bool = False
) -> Parts:
    """Return the folders of the training, the test and the validation images.

    Args:
        path: The folder of the data set.
        tally: Counts what lies beside the parts.
        takes_validation: Whether validation images come from a folder of their own.
        draws_test: Whether test images may then be drawn from the training images.

    Returns:
        `path` itself as the training images' if the data set has no parts.

    Raises:
        UserError: A part is missing or there twice, or holds images without classes.
    """
    wanted = (TRAIN, TEST, VALIDATION) if takes_validation else (TRAIN, TEST)
    beside = Tally()
    root = _scan(str(path), beside)
    contents = {name: _scan(str(path / name), Tally()) for name in root.folders}
    parts = {name: part for name in root.folders if (part := part_of(name))}
    if not any(contents[name].folders for name in parts):
        _check_no_parts(path, contents, parts)
        if takes_validation:
            raise UserError(NO_VALIDATION.format(path))
        return Parts(path)
    chosen = {}
    for part in wanted:
        named = [name for name in parts if parts[name] == part]
        if len(named) > 1:
            raise UserError(
                f"dataset.path: {path} has {named[0]}/ and {named[1]}/ for the {part} images; put "
                "them together, or remove one"
            )
        if named:
            chosen[part] = named[0]
    if takes_validation and VALIDATION not in chosen:
        raise UserError(NO_VALIDATION.format(path))
    may_lack = {TEST} if takes_validation and draws_test else set()
    for part in wanted:
        if part not in {*chosen, *may_lack}:
            _refuse_without(part, path, parts, takes_validation)
    for name in root.folders:
        if name not in chosen.values():
            is_validation = parts.get(name) == VALIDATION
            why = NOT_DRAWN.format("folder") if is_validation else "neither train nor test"
            folder = str(path / name)
            tally.add(f"in {printable(name)}/: {why}", folder, n_files(folder))
    for name in root.files:
        tally.add("beside train/ and test/", path / name)
    tally.reasons.update(beside.reasons)
    return Parts(**{part: _innermost(path / name) for part, name in chosen.items()})


def _refuse_without(
    part: str, path: Path, parts: dict[str, str], takes_validation: bool
) -> NoReturn:
    """Raise UserError: a part has no folder; with train/ and val/ alone, say what can be tested on.

    Whoever tests on validation images has to say so, by a link.
    """
    names = {p: name for name, p in parts.items()}
    if part == TEST and {*names} == {TRAIN, VALIDATION}:
        train, validation = names[TRAIN], names[VALIDATION]
        drawn = "dataset.test_size: 0.2" + (
            "" if takes_validation else " and dataset.validation: folder"
        )
        raise UserError(
            f"dataset.path: {path} has {train}/ and {validation}/, but no test images; give "
            f"{drawn} to hold some out of {train}/, or link test/ to {validation}/ to test on those"
        )
    raise UserError(
        f"dataset.path: {path} has no folder {part}/ beside the other one, {next(iter(parts))}/; "
        "add it (a link will do), or give the folder that holds the classes"
    )


def _innermost(part: Path) -> Path:
    """Return the inner folder of training_set/training_set, as some archives unpack."""
    inside = _scan(str(part), Tally())
    while inside.folders == [part.name] and not inside.files:
        part /= part.name
        inside = _scan(str(part), Tally())
    return part


def _check_no_parts(path: Path, contents: dict[str, _Contents], parts: dict[str, str]) -> None:
    """Check that the folders of a data set without parts can be classes.

    Raises:
        UserError: They look like parts.
    """
    images = [name for name in parts if contents[name].files]
    if images and (len({parts[n] for n in images}) > 1 or len(parts) == len(contents)):
        raise UserError(
            f"dataset.path: {path}/{images[0]} holds images, but no folder for each class; make "
            "some, in train/ and in test/"
        )
    nested = [n for n, inside in contents.items() if inside.folders and not inside.files]
    mentioned = {n: words for n in nested if (words := _mentioned_parts(n))}
    if len(set().union(*mentioned.values())) > 1:
        first, second = list(mentioned)[:2] if len(mentioned) > 1 else (next(iter(mentioned)), "")
        names = f"{first}/ and {second}/ look" if second else f"{first}/ looks"
        raise UserError(
            f"dataset.path: in {path}, {names} like parts, not classes; call them train/ and test/"
        )
    for name, inside in contents.items():
        within = {part_of(f): f for f in inside.folders if part_of(f)}
        if len(within) > 1:
            a, b = sorted(within.values())[:2]
            raise UserError(
                f"dataset.path: {path / name} holds {a}/ and {b}/; give it as the path if it is "
                "the data set, or put the classes into the parts"
            )


@dataclass
class Reader:
    """Lists the files of each class of one data set.

    Attributes:
        tally: Counts what is left out.
        read_for: The class folder that each folder was read for, by device and inode.
    """

    tally: Tally
    read_for: dict[tuple[int, int], str] = field(default_factory=dict)

    def class_files(self, part: Path) -> dict[str, list[str]]:
        """Return the sorted files of each class of a part.

        Raises:
            UserError: There are no folders, two have one name, one is read for another class, or a
                name cannot be printed.
        """
        inside = _scan(str(part), self.tally)
        for name in inside.files:
            self.tally.add("beside the class folders", part / name)
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
        """Yield the files of a class."""
        real = os.path.realpath(folder)
        above = [*Path(os.path.abspath(folder)).parents, *Path(real).parents]
        up = {identity_of(str(f)) for f in above}
        pending = [str(folder)]
        while pending:
            here = pending.pop()
            identity = identity_of(here)
            if identity in up:
                self.tally.add("a link to a folder that it lies in", here)
                continue
            class_folder = self.read_for.get(identity)
            if class_folder is not None:
                if class_folder != str(folder):
                    raise UserError(
                        f"dataset: {printable(here)} is read for {printable(class_folder)} "
                        "already; remove the link from one of them"
                    )
                self.tally.add("a link to a folder that is read already", here)
                continue
            self.read_for[identity] = str(folder)
            inside = _scan(here, self.tally)
            yield from (os.path.join(here, name) for name in inside.files)
            pending += [os.path.join(here, name) for name in reversed(inside.folders)]


def identity_of(path: str) -> tuple[int, int]:
    """Return device and inode of a file or a folder, which tell links from copies."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
