"""Readers of the files in a cell's directory, one per kind of file.

Each returns a valid object or raises `Damaged`, one line that names the file and the remedy.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.common.canonical_json import canonical
from harness.common.errors import UserError

M = TypeVar("M", bound=BaseModel)

LARGEST = 2**63 - 1  # the largest number that other programs read as an integer
# The beginning of a line with a checksum. Any key is taken for that of the checksum, so that a line
# whose key has changed does not pass for one of an earlier version, which wrote no checksums.
SEAL = re.compile(rb'\{"...":".{16}",')


class Damaged(UserError):
    """A file of a cell is not what was written there.

    Args:
        what: What is wrong with the file.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        cell = path.parent
        super().__init__(
            f"{path} {what}; `harness repair {cell.name} --store {shlex.quote(str(cell.parent))}` "
            "says what can be kept"
        )


class Event(dict[str, Any]):
    """A line of a journal.

    A missing field is damage, reported when the field is needed: older versions wrote fewer.
    """

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise Damaged(self.path, f"has no {key!r}")


class Description(BaseModel):
    """The parts of cell.json, whatever version wrote it."""

    model_config = ConfigDict(strict=True)

    kind: str
    spec: dict[str, Any]
    upstream: dict[str, str]


def sealed(content: dict[str, Any], cell: Path) -> bytes:
    """Return one line of JSON that begins with a checksum of its text and of the cell it is for."""
    text = canonical(content)[1:].encode()
    return _seal(text, cell) + text + b"\n"


def _seal(text: bytes, cell: Path) -> bytes:
    key = cell.name.encode() if is_fingerprint(cell.name) else b""
    return b'{"sum":"%s",' % hashlib.blake2b(text, digest_size=8, key=key).hexdigest().encode()


def unsealed(line: bytes, cell: Path) -> bytes:
    """Return a line without its checksum, if it has one.

    Raises:
        ValueError: The line or its cell is another; the message says so.
    """
    if not (seal := SEAL.match(line)):
        return line
    text = line[seal.end() :].removesuffix(b"\n")
    if seal[0] != _seal(text, cell):
        raise ValueError("does not match its checksum, or is of another cell")
    return b"{" + text


def lacks_checksum(path: Path) -> bool:
    """Return whether a file is there that an earlier version wrote, without checksums."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return False
    return bool(start) and not SEAL.match(start)


def parse_json(data: bytes) -> Any:
    """Parse JSON that any other program can read as well.

    Raises:
        ValueError: It is not JSON of finite numbers and valid text; the message says what it is.
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
        # Python's json accepts NaN, 1e999 and lone surrogates, which nothing else does. Surrogates
        # that stand for the bytes of a path are allowed.
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError):
        raise ValueError("is no whole JSON") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) > LARGEST:
        raise ValueError("a number that is too large")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        Damaged: The file cannot be read.
    """
    try:
        content = parse_json(unsealed(path.read_bytes(), path.parent))
    except ValueError as error:
        raise Damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise Damaged(path, "is no JSON object")
    return content


def read_model(path: Path, model: type[M]) -> M:
    """Read a JSON file as an object of a pydantic model.

    Raises:
        FileNotFoundError: There is no such file.
        Damaged: The file cannot be read, or a field is missing or has another type.
    """
    return _validated(read_json(path), path, model)


def _validated(content: dict[str, Any], path: Path, model: type[M]) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))[:80]
        if first["type"] == "missing":
            raise Damaged(path, f"has no {field!r}") from None
        wrong = f"{field!r} is not what it should be ({first['msg'].lower()})"
        raise Damaged(path, wrong) from None


def read_description(path: Path) -> dict[str, Any]:
    """Read cell.json as plain JSON data, whatever version wrote it.

    Raises:
        FileNotFoundError, Damaged: See `read_model`.
    """
    content = read_json(path)
    _validated(content, path, Description)
    return content


def is_fingerprint(name: str) -> bool:
    """Return whether a directory of this name can be that of a cell (`Store.directory`)."""
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def check_identity(path: Path) -> None:
    """Check that a cell.json describes the cell that its directory is named after.

    Raises:
        FileNotFoundError, Damaged: See `read_description`; or it describes another cell.
    """
    fingerprint = hashlib.sha256(canonical(read_description(path)).encode()).hexdigest()
    if is_fingerprint(path.parent.name) and not fingerprint.startswith(path.parent.name):
        raise Damaged(path, "is of another cell than its directory")


def read_epoch_number(path: Path) -> int:
    """Read the pause file.

    Raises:
        FileNotFoundError: There is no such file.
        Damaged: It holds no number of an epoch.
    """
    text = path.read_bytes().strip()
    if not text.isdigit() or len(text) > 9:
        raise Damaged(path, "is not the number of an epoch")
    return int(text)


def parse_event(line: bytes, cell: Path) -> dict[str, Any]:
    """Parse a line of the journal in the directory `cell`.

    Raises:
        ValueError: The line is no event; the message says why.
    """
    event = parse_json(unsealed(line, cell))
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


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the events of a journal; there are none before it exists.

    A half-written last line is left out.

    Raises:
        Damaged: A line is no event; the message says which, and why.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(Event(parse_event(line, path.parent), path))
        except ValueError as error:
            raise Damaged(path, f"line {number} {error}") from None
    try:
        parse_event(rest[:-1], path.parent)
    except ValueError:
        return events
    raise Damaged(path, f"line {len(lines) + 1} ends with another byte than it was written with")


def epoch_lines(events: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the epoch lines of a journal.

    An epoch that is trained again, because its checkpoint was lost, replaces its earlier line and
    all lines after that.

    Raises:
        Damaged: The line of an epoch is missing.
    """
    lines: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "epoch":
            if event["epoch"] > len(lines) + 1:
                raise Damaged(path, f"has no line of epoch {len(lines) + 1}")
            del lines[event["epoch"] - 1 :]
            lines.append(event)
    return lines
