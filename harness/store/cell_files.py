"""Readers of the files in a cell's directory, one per kind of file.

Each returns a valid object or raises `Damaged`, one line that names the file and the remedy.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import shlex
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.reading import NotAFile, open_file

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
    digest = hashlib.blake2b(text, digest_size=8, key=_key(cell)).hexdigest()
    return b'{"sum":"%s",' % digest.encode()


@functools.lru_cache(maxsize=16)  # a journal has one for all of its lines
def _key(cell: Path) -> bytes:
    return cell.name.encode() if is_fingerprint(cell.name) else b""


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


def open_cell_file(path: Path) -> IO[bytes]:
    """Open a cell's file to read it.

    Raises:
        FileNotFoundError: There is no such file.
        Damaged: Something else has its name, such as a pipe.
    """
    try:
        return open_file(path)
    except NotAFile as error:
        raise Damaged(path, f"is {error.strerror}") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a cell's file; raise as `open_cell_file`."""
    with open_cell_file(path) as file:
        return file.read()


def lacks_checksum(path: Path) -> bool:
    """Return whether a file is there that an earlier version wrote, without checksums."""
    try:
        with open_cell_file(path) as file:
            start = file.read(64)
    except (FileNotFoundError, Damaged):  # whoever reads all of it says so
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
        value = _DECODER.decode(text)
        # Python's json accepts lone surrogates, which nothing else does. Those that stand for the
        # bytes of a path are allowed.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError):
        raise ValueError("is no whole JSON") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) > LARGEST:
        raise ValueError("a number that is too large")
    return value


def _fraction(digits: str) -> float:
    """Return a number; 1e999 is one for Python alone."""
    if math.isinf(value := float(digits)):
        raise ValueError("a number that is too large")
    return value


def _refuse(name: str) -> float:
    """Refuse NaN and its like, which are no JSON."""
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=_refuse)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        Damaged: The file cannot be read.
    """
    try:
        content = parse_json(unsealed(read_bytes(path), path.parent))
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
    text = read_bytes(path).strip()
    if not text.isdigit() or len(text) > 9:
        raise Damaged(path, "is not the number of an epoch")
    return int(text)
