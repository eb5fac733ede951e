"""What lies in a cell's directory is data: one reader a kind of file, which gives a valid object or
says in one line which file is damaged and what to do."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.common.canonical_json import canonical
from harness.common.errors import UserError

LARGEST = 2**63 - 1  # that other programs read as an integer


class Damaged(UserError):
    """A file of a cell is not what was written there. what: is wrong with it."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        cell = path.parent
        super().__init__(
            f"{path} {what}; `harness repair {cell.name} --store {shlex.quote(str(cell.parent))}` "
            "says what can be kept"
        )


class Fields(dict[str, Any]):
    """The content of a file. A field that it lacks is damage of the file, said when it is needed:
    older versions wrote fewer."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise Damaged(self.path, f"has no {key!r}")


def parse_json(data: bytes) -> Any:
    """
    Raises:
        ValueError: no JSON of finite numbers and whole letters; the text says what it is instead.
    """
    if not data.strip():
        raise ValueError("is empty")
    if not data.strip(b"\0"):
        raise ValueError("holds nothing but zeros, as a power cut leaves it")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    try:
        value = json.loads(text, parse_int=_integer)
        # json reads NaN, 1e999 and halves of letters, which nothing else can; what Python makes of
        # a path that is not UTF-8 may stay.
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError):
        raise ValueError("is no whole JSON") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) > LARGEST:
        raise ValueError("a number that is too large")
    return value


class DescriptionFields(TypedDict):
    """cell.json."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    kind: str
    spec: dict[str, Any]
    upstream: dict[str, str]


class ManifestFields(TypedDict, total=False):
    """manifest.json."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    results: dict[str, dict[str, float]]
    selected_epoch: int
    epochs: int
    seconds: float
    evaluation_seconds: float
    parameters: int
    model_sha256: str
    data: dict[str, Any]
    device: str
    threads: int | list[int]  # several of a cell that went on elsewhere
    processor: str | list[str]
    attempts: int
    commits: list[str]
    dirty: bool | None
    python: str
    torch: str
    imported: dict[str, Any]


class OptionsFields(TypedDict, total=False):
    """options.json."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    dataset: dict[str, Any]
    data_root: str | None
    n_workers: int
    teacher_cache: int


DESCRIPTION, MANIFEST, OPTIONS = (
    TypeAdapter(kind) for kind in (DescriptionFields, ManifestFields, OptionsFields)
)


def problem(value: Any, schema: TypeAdapter[Any]) -> str | None:
    """What is wrong with plain data, None if nothing is."""
    if not isinstance(value, dict):
        return "is no JSON object"
    try:
        schema.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where[:80]!r} is not what it should be ({first['msg'].lower()})"
    return None


def read_fields(path: Path, schema: TypeAdapter[Any]) -> Fields:
    """
    Raises:
        FileNotFoundError: no such file.
        Damaged: it cannot be read, or a field has another type.
    """
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise Damaged(path, str(error)) from None
    if wrong := problem(content, schema):
        raise Damaged(path, wrong)
    return Fields(content, path)


def is_fingerprint(name: str) -> bool:
    """Whether a directory may be that of a cell (`Store.directory`)."""
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def check_identity(path: Path) -> None:
    """
    Raises:
        FileNotFoundError, Damaged: see `read_fields`; or cell.json is of another cell than its
            directory is called after.
    """
    text = canonical(read_fields(path, DESCRIPTION))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if is_fingerprint(path.parent.name) and not fingerprint.startswith(path.parent.name):
        raise Damaged(path, "is of another cell than its directory")


def read_epoch_number(path: Path) -> int:
    """The pause file.

    Raises:
        FileNotFoundError: no such file.
        Damaged: it holds no number of an epoch.
    """
    text = path.read_bytes().strip()
    if not text.isdigit() or len(text) > 9:
        raise Damaged(path, "is not the number of an epoch")
    return int(text)


def parse_event(line: bytes) -> dict[str, Any]:
    """A line of a journal.

    Raises:
        ValueError: it is none; the text says why.
    """
    event = parse_json(line)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError("is no event")
    numbers = {"time": event.get("time")}
    if event["event"] == "epoch":
        numbers |= {k: v for k, v in event.items() if k != "event"}
        if type(event.get("epoch")) is not int or event["epoch"] < 1:
            raise ValueError("has no number of its epoch")
    for name, value in numbers.items():
        if type(value) not in (int, float):
            raise ValueError(f"has no number as {name[:80]!r}")
    if event["event"] == "failed" and not isinstance(event.get("error"), str):
        raise ValueError("does not say what failed")
    return event


def whole_lines(data: bytes) -> list[bytes]:
    """The lines that were written to their end; a half-written last one does not count."""
    return data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of a journal; none where there is none yet.

    Raises:
        Damaged: a line is no event; which one, and why.
    """
    try:
        lines = whole_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(Fields(parse_event(line), path))
        except ValueError as error:
            raise Damaged(path, f"line {number} {error}") from None
    return events


def epoch_lines(events: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The epoch lines of a journal. An epoch that comes again, because its checkpoint was lost,
    replaces itself and all after it.

    Raises:
        Damaged: the line of an epoch is missing.
    """
    lines: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "epoch":
            if event["epoch"] > len(lines) + 1:
                raise Damaged(path, f"has no line of epoch {len(lines) + 1}")
            del lines[event["epoch"] - 1 :]
            lines.append(event)
    return lines
