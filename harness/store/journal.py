"""The journal of a cell: read whole, or looked at again and again while its cell trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.store.cell_files import SEAL, Damaged, open_cell_file, parse_json, unsealed


class Event(dict[str, Any]):
    """A line of a journal.

    A missing field is damage, reported when the field is needed: older versions wrote fewer.
    """

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise Damaged(self.path, f"has no {key!r}")


def parse_event(line: bytes, cell: Path) -> dict[str, Any]:
    """Parse a line of the journal in the directory `cell`.

    Raises:
        ValueError: The line is no event; the message says why.
    """
    return _checked(parse_json(unsealed(line, cell)))


def _parse_together(lines: list[bytes], cell: Path) -> list[dict[str, Any]]:
    """Parse lines with checksums at once, which takes half as long as one by one.

    Raises:
        ValueError: One of them is no event, or has no checksum; parse each to know which.
    """
    texts = [unsealed(line, cell) for line in lines if SEAL.match(line)]
    events = parse_json(b"[%s]" % b",".join(texts))
    if len(events) != len(lines):
        raise ValueError("is not one event per line")
    return [_checked(event) for event in events]


def _checked(event: Any) -> dict[str, Any]:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError("is no event")
    if event["event"] == "epoch":
        if type(event.get("epoch")) is not int or event["epoch"] < 1:
            raise ValueError("has no number of its epoch")
        for name, value in event.items():
            if type(value) not in (int, float) and name != "event":
                raise ValueError(f"has no number as {name[:80]!r}")
    if type(event.get("time")) not in (int, float):
        raise ValueError("has no number as 'time'")
    if event["event"] == "failed" and not isinstance(event.get("error"), str):
        raise ValueError("does not say what failed")
    return event


class Journal:
    """The part of a journal that has been read.

    Attributes:
        events: Its whole lines.
        first: The position of the first event of the training that counts. A training that began
            anew, as its checkpoint was lost, repeats every epoch.
        seconds: The time of the epochs in `epochs`, as far as they say it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.first, self.seconds = 0, 0.0
        self._epochs: list[dict[str, Any]] = []
        self._gap = 0  # an epoch without a line; 0 if there is none
        self._start = 0  # the position of the last start
        self._offset, self._last = 0, b""  # the bytes that were parsed, and the last line of them
        self._seen = (0, 0, 0)  # inode, size and time at the last look

    def look(self) -> Journal:
        """Read what was appended since the last look, and return the journal itself.

        A half-written last line waits for its rest. A journal that was replaced, or written to
        without becoming longer, is read anew.

        Raises:
            Damaged: A line is no event; the message says which, and why. The next look reads all.
        """
        try:
            with open_cell_file(self.path) as file:
                found = os.fstat(file.fileno())
                seen = found.st_ino, found.st_size, found.st_mtime_ns
                if seen == self._seen:
                    return self
                is_longer = seen[0] == self._seen[0] and seen[1] > self._seen[1]
                file.seek(self._offset - len(self._last))
                data = file.read() if is_longer else b""
                if not is_longer or not data.startswith(self._last):
                    self._forget()
                    file.seek(0)
                    data = file.read()
        except FileNotFoundError:
            self._forget()
            return self
        *lines, rest = data[len(self._last) :].split(b"\n")
        try:
            for event in _parse_together(lines, self.path.parent):
                self._follow(event)
        except ValueError:
            for line in lines:
                try:
                    self._follow(parse_event(line, self.path.parent))
                except ValueError as error:
                    self._seen = (0, 0, 0)
                    raise Damaged(self.path, f"line {len(self.events) + 1} {error}") from None
        self._offset += sum(map(len, lines)) + len(lines)
        self._last = lines[-1] + b"\n" if lines else self._last
        if rest and _is_event(rest[:-1], self.path.parent):
            self._seen = (0, 0, 0)
            what = "ends with another byte than it was written with"
            raise Damaged(self.path, f"line {len(self.events) + 1} {what}")
        self._seen = seen
        return self

    def _follow(self, content: dict[str, Any]) -> None:
        event = Event(content, self.path)
        if event["event"] == "start":
            self._start = len(self.events)
        elif event["event"] == "epoch":
            number = event["epoch"]
            if number == 1:
                self.first = self._start if self._epochs else 0
            if number > len(self._epochs) + 1:
                self._gap = self._gap or len(self._epochs) + 1
            for replaced in self._epochs[number - 1 :]:
                self.seconds -= replaced.get("seconds", 0.0)
            del self._epochs[number - 1 :]
            self._epochs.append(event)
            self.seconds += event.get("seconds", 0.0)
        self.events.append(event)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The lines of its epochs; do not change the list.

        An epoch that is trained again, because its checkpoint was lost, replaces its earlier line
        and all lines after that.

        Raises:
            Damaged: The line of an epoch is missing.
        """
        if self._gap:
            raise Damaged(self.path, f"has no line of epoch {self._gap}")
        return self._epochs


def _is_event(line: bytes, cell: Path) -> bool:
    try:
        parse_event(line, cell)
        return True
    except ValueError:
        return False


def read_journal(path: Path) -> Journal:
    """Read a journal; it has no events before it exists.

    Raises:
        Damaged: A line is no event; the message says which, and why.
    """
    return Journal(path).look()
