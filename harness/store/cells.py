"""The directories of cells (harness.store lists their files), and the store that holds them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.locks import is_locked, try_lock
from harness.common.reading import open_file
from harness.store.cell_files import (
    Damaged,
    check_identity,
    is_fingerprint,
    lacks_checksum,
    read_bytes,
    read_description,
    read_epoch_number,
    read_model,
    sealed,
)
from harness.store.files import sweep, write_atomically
from harness.store.journal import Journal, read_journal
from harness.store.manifest import CellOptions, Manifest


class CellDir:
    """The directory of one cell. Every read may raise `harness.store.cell_files.Damaged`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def is_done(self) -> bool:
        """Whether the cell is finished. A damaged manifest raises: it is no reason to retrain."""
        try:
            self.manifest  # noqa: B018
            return True
        except FileNotFoundError:
            return False

    @property
    def has_manifest(self) -> bool:
        """Whether the cell is finished or, if its manifest is damaged, was."""
        return os.path.lexists(f"{self.path}/manifest.json")

    @property
    def cell(self) -> Cell:
        """The cell itself. `Damaged` names a setting that this version refuses."""
        description = read_description(self / "cell.json")
        try:
            return Cell.from_json(description)
        except UserError as error:
            raise Damaged(self / "cell.json", f"is wrong: {error}") from None

    @property
    def options(self) -> CellOptions:
        """Facts that the training needs about this machine; the defaults if there is no file."""
        try:
            return read_model(self / "options.json", CellOptions)
        except FileNotFoundError:
            return CellOptions()

    @property
    def manifest(self) -> Manifest:
        """The results of a finished cell; FileNotFoundError before it is finished."""
        return read_model(self / "manifest.json", Manifest)

    @property
    def pause_after(self) -> int | None:
        """The epoch after which training pauses; None if it does not."""
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
        """Whether the cell is trained up to its pause."""
        epoch = self.pause_after
        return epoch is not None and len(self.epochs()) >= epoch

    @property
    def unchecked(self) -> list[str]:
        """The files that an earlier version wrote without checksums, so that damage goes unseen."""
        return [n for n in ("manifest.json", "journal.jsonl") if lacks_checksum(self / n)]

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, with which the cell is done, and delete its checkpoint."""
        write_atomically(self / "manifest.json", sealed(manifest.as_json(), self.path))
        self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Delete the checkpoint and what a kill has left of its successor."""
        for pattern in ("checkpoint.*", ".checkpoint.*.tmp"):
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
        """Whether a live process is training this cell."""
        return is_locked(self / "lease")

    def append(self, event: str, **fields: Any) -> None:
        """Append one durable line to the journal."""
        self.extend([{"event": event, "time": round(time.time(), 3), **fields}])

    def extend(self, events: list[dict[str, Any]]) -> None:
        """Append durable lines to the journal: each an `event`, its `time` and its fields.

        A half-written last line, as a power cut or a full disk leaves it, is cut off before.
        """
        lines = b"".join(sealed(event, self.path) for event in events)
        if not lines:
            return
        with open(self / "journal.jsonl", "ab+") as file:
            if size := file.tell():
                file.seek(size - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def journal(self) -> Journal:
        """Return the journal, read to its end."""
        return read_journal(self / "journal.jsonl")

    def events(self) -> list[dict[str, Any]]:
        """Return the journal's whole lines, without a half-written last one."""
        return self.journal().events

    def epochs(self) -> list[dict[str, Any]]:
        """Return the epoch lines of the journal (`Journal.epochs`)."""
        return self.journal().epochs

    def check_epochs(self) -> None:
        """Check that the journal of a finished cell has all of its epochs.

        Raises:
            Damaged: It has not.
        """
        if (n := len(self.epochs())) < self.manifest.epochs:
            raise Damaged(self / "journal.jsonl", f"has no line of epoch {n + 1}")

    def _digest_of(self, name: str) -> str:
        """Return the SHA-256 of a file, "" if there is no such file."""
        try:
            return hashlib.sha256(read_bytes(self / name)).hexdigest()
        except FileNotFoundError:
            return ""

    def write_checkpoint(self, data: bytes) -> None:
        """Replace checkpoint.pt.

        The new digest is written before the rename, beside the old one, so that whichever file a
        crash leaves is a known one.
        """
        digests = self / "checkpoint.sha256"
        new = hashlib.sha256(data).hexdigest()
        # Of the known digests, keep only that of the present file: a crash may have left another.
        known = self.known_digests()
        old = self._digest_of("checkpoint.pt") if known else ""
        lines = [new, *(d for d in known if d == old)]
        write_atomically(digests, ("\n".join(lines) + "\n").encode())
        write_atomically(self / "checkpoint.pt", data)

    def known_digests(self) -> list[str]:
        """Return the lines of checkpoint.sha256; none if it is missing or broken."""
        try:
            return read_bytes(self / "checkpoint.sha256").decode("ascii", "replace").split()
        except (FileNotFoundError, Damaged):
            return []

    def read_checkpoint(self) -> bytes | None:
        """Return the bytes of checkpoint.pt; None before the first one.

        The journal is checked, too: a training needs both to resume.

        Raises:
            Damaged: The file is not the one that was written, or the journal is damaged.
        """
        self.epochs()
        for _ in range(5):  # another process may be replacing it, or finishing the cell
            try:
                data = read_bytes(self / "checkpoint.pt")
            except FileNotFoundError:
                return None
            if hashlib.sha256(data).hexdigest() in self.known_digests():
                return data
        raise Damaged(self / "checkpoint.pt", "does not match its SHA-256")

    def check_model(self) -> None:
        """Check the weights of a finished cell.

        Raises:
            Damaged: model.pt is missing or was changed.
        """
        if self._digest_of("model.pt") != self.manifest.model_sha256:
            raise Damaged(self / "model.pt", "is missing or does not match its SHA-256")


class WatchedCell(CellDir):
    """The directory of a cell that is looked at while it trains: a look reads what is new.

    Damage to what was read before goes unseen. Do not change the lists that it returns.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._journal = Journal(self / "journal.jsonl")

    def journal(self) -> Journal:
        """Return the journal, read to its end."""
        return self._journal.look()


class Store:
    """A folder of cells."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """Make the folder if it is missing, and check that it can be written.

        Raises:
            UserError: It cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root).close()
        except OSError as error:
            raise UserError(
                f"--store: cannot write to {self.root} ({error.strerror}); "
                "choose a folder you may write to"
            ) from None
        sweep(self.root)

    def sweep(self) -> None:
        """Remove the temporary files that killed processes left, also beside finished cells."""
        for cell in (self.root, *(c.path for c in self.all() if not c.path.is_symlink())):
            sweep(cell)

    def directory(self, fingerprint: str) -> CellDir:
        """Return the directory of a cell, whether or not it exists."""
        return CellDir(self.root / fingerprint[:16])

    def watch(self, fingerprint: str) -> WatchedCell:
        """Return the directory of a cell, to be looked at again and again."""
        return WatchedCell(self.directory(fingerprint).path)

    def names(self) -> set[str]:
        """Return the names in the store, those of the directories of cells among them."""
        try:
            return set(os.listdir(self.root))
        except FileNotFoundError:
            return set()

    def prepare(self, cell: Cell, options: CellOptions | None = None) -> CellDir:
        """Make the directory of a cell if it is missing, with all that its training needs.

        `options` are no part of the cell and may have changed since; None leaves what is there.

        Raises:
            Damaged: The directory holds another cell.
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
        for name in ("lease", "log.txt"):  # which the training opens, and writes to
            with contextlib.suppress(FileNotFoundError):
                open_file(directory / name).close()
        if options is not None:
            write_atomically(directory / "options.json", canonical(options.as_json()).encode())
        return directory

    def find(self, prefix: str) -> CellDir:
        """Return the directory whose name begins with `prefix`, even if its cell.json is lost.

        Raises:
            UserError: No cell, or more than one, begins so.
        """
        folders = (p.name for p in self.root.glob("*") if p.is_dir() and is_fingerprint(p.name))
        matches = [name for name in folders if name.startswith(prefix[:16])]
        if len(matches) != 1 or not prefix:
            problem = "no cell" if not matches else f"{len(matches)} cells"
            raise UserError(
                f"CELL: {problem} in {self.root} begins with {prefix!r}; `harness plan` lists them"
            )
        return CellDir(self.root / matches[0])

    def all(self) -> list[CellDir]:
        """Return the directories of all cells that have a cell.json, by name."""
        return [CellDir(p.parent) for p in sorted(self.root.glob("*/cell.json"))]
