"""Cells that are trained where nobody sees the store: their files travel there, and what the
training writes comes back, one write after the other, in the order of a training in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.store import CellDir
from harness.store.files import write_atomically

Files = dict[str, bytes]  # name -> content
Send = Callable[[str, Any], None]  # (name of a write, its content)

# What a training reads of its own cell, and of an upstream one.
OWN = (
    "cell.json",
    "options.json",
    "pause",
    "journal.jsonl",
    "checkpoint.pt",
    "checkpoint.sha256",
)
UPSTREAM = ("cell.json", "model.pt", "manifest.json")
RESULTS = ("model.pt", "predictions.npz")  # written in this order, the manifest after them


def read_files(directory: CellDir, names: Iterable[str]) -> Files:
    """Those that are there. Of an own cell only under its lease."""
    return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


def write_files(directory: CellDir, files: Files) -> None:
    """Into a fresh directory, of a store that nobody else sees."""
    directory.path.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)


class SentCell(CellDir):
    """A cell whose writes are sent, too, as soon as they are on the disk here."""

    def __init__(self, path: Path, send: Send) -> None:
        super().__init__(path)
        self._send = send

    def extend(self, events: list[dict[str, Any]]) -> None:
        super().extend(events)
        if events:
            self._send("journal", events)

    def write_checkpoint(self, data: bytes) -> None:
        super().write_checkpoint(data)
        self._send("checkpoint", data)

    def finish(self, manifest: dict[str, Any]) -> None:
        self._send("results", (read_files(self, RESULTS), manifest))
        super().finish(manifest)


def receive(directory: CellDir, write: str, content: Any) -> None:
    """Do in the store what a `SentCell` did elsewhere. Only under the cell's lease."""
    if write == "journal":
        directory.extend(content)
    elif write == "checkpoint":
        directory.write_checkpoint(content)
    else:
        files, manifest = content
        for name in RESULTS:
            if name in files:
                write_atomically(directory / name, files[name])
        directory.finish(manifest)
