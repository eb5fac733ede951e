"""The directories of cells (harness.store lists their files), and the store that holds them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.locks import is_locked, try_lock
from harness.store.cell_files import (
    DESCRIPTION,
    MANIFEST,
    OPTIONS,
    Damaged,
    check_identity,
    epoch_lines,
    is_fingerprint,
    read_epoch_number,
    read_fields,
    read_journal,
)
from harness.store.files import sweep, write_atomically


class CellDir:
    """The directory of one cell. Every read may raise `harness.store.cell_files.Damaged`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def is_done(self) -> bool:
        """A manifest that cannot be read is no reason to train the cell again: it is damage."""
        try:
            self.manifest  # noqa: B018
            return True
        except FileNotFoundError:
            return False

    @property
    def cell(self) -> Cell:
        """The cell itself.

        Raises:
            Damaged: cell.json cannot be read, or has a setting that is wrong; it is named.
        """
        try:
            return Cell.from_json(self.description)
        except Damaged:
            raise
        except UserError as error:
            raise Damaged(self / "cell.json", f"is wrong: {error}") from None

    @property
    def description(self) -> dict[str, Any]:
        """cell.json as it is, whatever version wrote it."""
        return read_fields(self / "cell.json", DESCRIPTION)

    @property
    def options(self) -> dict[str, Any]:
        """Of its training on this machine (`Store.prepare`); nothing in a bare directory."""
        try:
            return read_fields(self / "options.json", OPTIONS)
        except FileNotFoundError:
            return {}

    @property
    def manifest(self) -> dict[str, Any]:
        return read_fields(self / "manifest.json", MANIFEST)

    @property
    def pause_after(self) -> int | None:
        try:
            return read_epoch_number(self / "pause")
        except FileNotFoundError:
            return None

    @pause_after.setter
    def pause_after(self, epoch: int | None) -> None:
        if epoch is None:
            (self / "pause").unlink(missing_ok=True)
        else:
            write_atomically(self / "pause", f"{epoch}\n".encode())

    @property
    def is_paused(self) -> bool:
        """Trained as far as it should for now."""
        epoch = self.pause_after
        return epoch is not None and len(self.epochs()) >= epoch

    def finish(self, manifest: dict[str, Any]) -> None:
        write_atomically(self / "manifest.json", (canonical(manifest) + "\n").encode())
        self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        for pattern in ("checkpoint.*", ".checkpoint.*.tmp"):  # the latter: left by a kill
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def lease(self) -> contextlib.AbstractContextManager[None]:
        """Hold this cell until the block ends or the process dies.

        Raises:
            Busy: Another live process holds it; the message says which.
        """
        holder = canonical({"pid": os.getpid(), "host": socket.gethostname()})
        return try_lock(self / "lease", holder)

    @property
    def is_leased(self) -> bool:
        """Whether a live process trains this cell now."""
        return is_locked(self / "lease")

    def append(self, event: str, **fields: Any) -> None:
        """One durable line of the journal."""
        self.extend([{"event": event, "time": round(time.time(), 3), **fields}])

    def extend(self, events: list[dict[str, Any]]) -> None:
        """Durable lines of the journal: each an `event`, its `time` and its fields."""
        if not events:
            return
        with open(self / "journal.jsonl", "a", encoding="utf-8") as file:
            file.write("".join(canonical(event) + "\n" for event in events))
            file.flush()
            os.fsync(file.fileno())

    def repair_journal(self) -> None:
        """Cut a half-written last line, as a power cut leaves it. Only under the lease."""
        path = self / "journal.jsonl"
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                with open(path, "r+b") as file:
                    file.truncate(whole)

    def events(self) -> list[dict[str, Any]]:
        """The journal's whole lines; a half-written last one does not count."""
        return read_journal(self / "journal.jsonl")

    def epochs(self) -> list[dict[str, Any]]:
        """The epoch lines (`epoch_lines`)."""
        return epoch_lines(self.events(), self / "journal.jsonl")

    def _digest_of(self, name: str) -> str:
        """SHA-256 of a file, "" if it is not there."""
        try:
            return hashlib.sha256((self / name).read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""

    def write_checkpoint(self, data: bytes) -> None:
        """Replace checkpoint.pt. Its digest is written before the rename, beside the old one, so
        that whichever file a crash leaves is a known one."""
        digests = self / "checkpoint.sha256"
        new = hashlib.sha256(data).hexdigest()
        # Of the known digests only that of the file itself: a crash may have left another one.
        known = self.known_digests()
        old = self._digest_of("checkpoint.pt") if known else ""
        lines = [new, *(d for d in known if d == old)]
        write_atomically(digests, ("\n".join(lines) + "\n").encode())
        write_atomically(self / "checkpoint.pt", data)

    def known_digests(self) -> list[str]:
        """What checkpoint.sha256 says; nothing where it is missing or broken."""
        try:
            return (self / "checkpoint.sha256").read_bytes().decode("ascii", "replace").split()
        except FileNotFoundError:
            return []

    def read_checkpoint(self) -> bytes | None:
        """The bytes of checkpoint.pt, None if the cell has not got that far. The journal is looked
        at too: nobody goes on from one without the other.

        Raises:
            Damaged: the file is not the one that was written, or the journal is damaged.
        """
        self.epochs()
        for _ in range(5):  # another process may be replacing it, or finishing the cell
            try:
                data = (self / "checkpoint.pt").read_bytes()
            except FileNotFoundError:
                return None
            if hashlib.sha256(data).hexdigest() in self.known_digests():
                return data
        raise Damaged(self / "checkpoint.pt", "does not match its SHA-256")

    def check_model(self) -> None:
        """
        Raises:
            Damaged: model.pt of a finished cell is missing or was changed.
        """
        if self._digest_of("model.pt") != self.manifest["model_sha256"]:
            raise Damaged(self / "model.pt", "is missing or does not match its SHA-256")


class Store:
    """A folder of cells."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """
        Raises:
            UserError: the folder cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"--store: cannot write to {self.root} ({error.strerror}); "
                "choose a folder you may write to"
            ) from None
        sweep(self.root)

    def directory(self, fingerprint: str) -> CellDir:
        return CellDir(self.root / fingerprint[:16])

    def prepare(self, cell: Cell, options: dict[str, Any] | None = None) -> CellDir:
        """Make the cell's directory if it is not there yet.

        Args:
            options: what is no part of the cell and may have changed (harness.run.session makes
                them): `dataset`, its options with the place of its files; `data_root`; `n_workers`
                of its loaders. All that a training needs is in its directory, so that it may be
                trained on another machine. None where none are needed.

        Raises:
            Damaged: the directory says that it is of another cell.
        """
        directory = self.directory(cell.fingerprint)
        sweep(directory.path)
        if not (directory / "cell.json").exists():
            directory.path.mkdir(exist_ok=True)
            write_atomically(
                directory / "cell.json",
                (json.dumps(cell.as_json(), indent=1, sort_keys=True) + "\n").encode(),
            )
        check_identity(directory / "cell.json")
        if options is not None:
            write_atomically(directory / "options.json", canonical(options).encode())
        return directory

    def find(self, prefix: str) -> CellDir:
        """The cell, even if its cell.json is lost.

        Raises:
            UserError: no cell, or more than one, begins with `prefix`.
        """
        names = sorted(p.name for p in self.root.glob("*") if p.is_dir() and is_fingerprint(p.name))
        found = [name for name in names if name.startswith(prefix[:16])]
        if len(found) != 1 or not prefix:
            problem = "no cell" if not found else f"{len(found)} cells"
            raise UserError(
                f"CELL: {problem} in {self.root} begins with {prefix!r}; `harness plan` lists them"
            )
        return CellDir(self.root / found[0])

    def all(self) -> list[CellDir]:
        return [CellDir(p.parent) for p in sorted(self.root.glob("*/cell.json"))]
