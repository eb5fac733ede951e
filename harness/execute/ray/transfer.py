"""Cells that are trained on machines that do not see the store.

Their files are sent there, and every write of the training is sent back, in the order in which a
training in the store would make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.store import CellDir
from harness.store.files import write_atomically
from harness.store.manifest import Manifest

Files = dict[str, bytes]  # name -> content
Send = Callable[[str, Any], None]  # (name of a write, its content)

# The files that a training reads of its own cell and of an upstream cell.
OWN_FILES = (
    "cell.json",
    "options.json",
    "pause",
    "journal.jsonl",
    "checkpoint.pt",
    "checkpoint.sha256",
)
UPSTREAM_FILES = ("cell.json", "model.pt", "manifest.json")
RESULT_FILES = ("model.pt", "predictions.npz")  # written in this order, before the manifest


def read_files(directory: CellDir, names: Iterable[str]) -> Files:
    """Read those of the files that exist. A cell that may be trained has to be leased."""
    return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


def write_files(directory: CellDir, files: Files) -> None:
    """Make a directory with these files, in a store that nobody else sees."""
    directory.path.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)


class RemoteCell(CellDir):
    """A cell's directory away from its store, which sends every write as soon as it is on disk."""

    def __init__(self, path: Path, send: Send) -> None:
        super().__init__(path)
        self._send = send

    def extend(self, events: list[dict[str, Any]]) -> None:
        """Append to the journal, and send the events."""
        super().extend(events)
        if events:
            self._send("journal", events)

    def write_checkpoint(self, data: bytes) -> None:
        """Write and send a checkpoint."""
        super().write_checkpoint(data)
        self._send("checkpoint", data)

    def finish(self, manifest: Manifest) -> None:
        """Send the results, and write the manifest."""
        self._send("results", (read_files(self, RESULT_FILES), manifest))
        super().finish(manifest)


def apply_write(directory: CellDir, write: str, content: Any) -> None:
    """Repeat in the store a write of a `RemoteCell`; the cell has to be leased."""
    if write == "journal":
        directory.extend(content)
    elif write == "checkpoint":
        directory.write_checkpoint(content)
    else:
        files, manifest = content
        for name in RESULT_FILES:
            if name in files:
                write_atomically(directory / name, files[name])
        directory.finish(manifest)
