"""`harness repair`: what a damaged cell can keep and what must be trained again.

Nothing is deleted: damaged files are moved into `damaged-TIME/` in the cell's directory. A finished
model is kept if it has the SHA-256 of its manifest. A checkpoint is kept if it has its own SHA-256
and the journal has all epochs before it. A cell that keeps neither is trained from the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import UserError
from harness.common.metrics import ACCURACY
from harness.common.names import command_name
from harness.methods import IMPORTED
from harness.store import Busy, CellDir, Store
from harness.store.cell_files import (
    Damaged,
    check_identity,
    read_bytes,
    read_description,
    sealed,
)
from harness.store.files import write_atomically
from harness.store.journal import parse_event, read_journal
from harness.store.predictions import read_predictions_file
from harness.track.sync_state import SYNC_FILE

Events = list[dict[str, Any]]

PREDICTIONS = "predictions.npz"


@dataclass
class Remedy:
    """A plan for repairing one cell.

    Attributes:
        damage: What is wrong, one line each.
        aside: The files to move away, in this order.
        write: name -> content of the files to write, some of them in place of those moved away.
        keep: What stays, one line each.
        again: What is trained again.
        predict: Whether the finished model has to make its predictions again; the old file stays
            until they are made.
    """

    damage: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    write: dict[str, bytes] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)
    again: str = ""
    predict: bool = False

    def spoil(self, name: str, what: str) -> None:
        """Mark a file as damaged, to be moved away."""
        self.damage.append(f"{name} {what}")
        self.aside.append(name)


def repair(prefix: str, root: Path, do_it: bool) -> None:
    """Report the damage of a cell and, if `do_it`, repair it while holding its lease.

    Raises:
        UserError: No cell, or more than one, has a fingerprint that begins with `prefix`; or the
            cell is being trained.
    """
    directory = Store(root).find(prefix)
    command = f"harness repair {directory.path.name} --store {root}"
    if not do_it:
        if directory.is_leased:
            raise UserError(f"CELL: {directory.path.name} is being trained; stop that first")
        remedy = examine(directory)
        _report(directory, remedy)
        if remedy.damage:
            print(f"nothing was changed; `{command} --yes` does it")
        return
    try:
        with directory.lease():
            remedy = examine(directory)
            _report(directory, remedy)
            if remedy.damage:
                _apply(directory, remedy)
    except Busy as error:
        raise UserError(
            f"CELL: {directory.path.name} is being trained by {error}; stop that first"
        ) from None


def examine(directory: CellDir) -> Remedy:
    """Return the remedy for a cell; write nothing."""
    remedy = Remedy()
    is_finished = _examine_result(directory, remedy)
    _examine_small_files(directory, remedy)
    if is_finished:
        _mend_finished(directory, remedy)
    else:
        _mend_unfinished(directory, remedy)
    return remedy


def _examine_result(directory: CellDir, remedy: Remedy) -> bool:
    """Return whether the cell has a finished model that can be kept.

    Otherwise the manifest is moved before its model, so that a crash leaves an unfinished cell
    rather than a finished one without its model; and first of all the note that MLflow has this
    result, as it will not have the next one.
    """
    try:
        directory.check_model()
    except FileNotFoundError:
        return False
    except Damaged as error:
        remedy.spoil(error.path.name, error.what)
        others = (SYNC_FILE, "manifest.json", "model.pt", PREDICTIONS)
        remedy.aside[:] = [n for n in others if os.path.lexists(directory / n)]
        return False
    return True


def _examine_small_files(directory: CellDir, remedy: Remedy) -> None:
    """Examine the files that the next command writes anew."""
    readers: dict[str, Callable[[], Any]] = {
        "cell.json": lambda: check_identity(directory / "cell.json"),
        "options.json": lambda: directory.options,
        "pause": lambda: directory.pause_after,
    }
    for name, reader in readers.items():
        with contextlib.suppress(FileNotFoundError):
            try:
                reader()
            except Damaged as error:
                remedy.spoil(name, error.what)


def _salvage(directory: CellDir, remedy: Remedy, is_finished: bool) -> Events:
    """Return the readable events of the journal; mark it if some are not."""
    path = directory / "journal.jsonl"
    try:
        journal = read_journal(path)
        journal.epochs  # noqa: B018 (a missing line is damage)
        if is_finished:
            directory.check_epochs()
        return journal.events
    except Damaged as error:
        remedy.spoil(path.name, error.what)
    readable: Events = []
    try:
        *lines, last = read_bytes(path).split(b"\n")
    except Damaged:  # no file at all
        return readable
    for line in (*lines, last[:-1]):  # without the byte in place of the line's end
        with contextlib.suppress(ValueError):
            readable.append(parse_event(line, directory.path))
    return readable


def _mend_finished(directory: CellDir, remedy: Remedy) -> None:
    """Keep weights and results; lost epochs become gaps in the curves."""
    manifest = directory.manifest
    remedy.keep.append("the finished model (it has its manifest's SHA-256) and its results")
    events = _salvage(directory, remedy, is_finished=True)
    if "journal.jsonl" in remedy.aside:
        lines, lost = with_gaps(events, manifest.epochs)
        remedy.write["journal.jsonl"] = _journal(directory, lines)
        known = f"; epochs {_numbers(lost)} are gaps in its curves" if lost else ""
        remedy.keep.append(f"{len(events)} lines of the journal{known}")
    try:
        if read_predictions_file(directory / PREDICTIONS) is None and _is_classifier(directory):
            remedy.damage.append(f"{PREDICTIONS} is missing")
            remedy.predict = True
    except Damaged as error:
        remedy.spoil(PREDICTIONS, error.what)
        remedy.predict = bool(manifest.results)
    if remedy.predict:
        remedy.keep.append("its predictions, which are made again from the model")


def _is_classifier(directory: CellDir) -> bool:
    """Return whether this version would have written predictions; older ones had some of them."""
    with contextlib.suppress(Damaged, FileNotFoundError):
        manifest = directory.manifest
        was_tested = bool(manifest.results) and manifest.imported is None
        return was_tested and directory.cell.metric == ACCURACY
    return False


def _mend_unfinished(directory: CellDir, remedy: Remedy) -> None:
    """Keep the checkpoint if the journal has every epoch before those that it holds itself."""
    events = _salvage(directory, remedy, is_finished=False)
    events, n_lines = reachable(events)
    if "journal.jsonl" in remedy.aside:
        remedy.write["journal.jsonl"] = _journal(directory, events)
    checkpoint = _checkpoint(directory, remedy)
    epoch, n_held = _epochs_of(checkpoint) if checkpoint is not None else (0, 0)
    if checkpoint is not None and epoch and n_lines >= epoch - n_held:
        remedy.keep.append(f"the checkpoint after epoch {epoch} and the journal up to it")
        remedy.again = f"what comes after epoch {epoch}" if remedy.damage else ""
        return
    checkpoints = ("checkpoint.pt", "checkpoint.sha256")
    if checkpoint is not None or "checkpoint.pt" in remedy.aside:
        if checkpoint is not None:
            after = f"is of epoch {epoch}, but the journal's lines end with epoch {n_lines}"
            remedy.damage.append(f"checkpoint.pt {after if epoch else 'holds no training'}")
        remedy.write.pop("checkpoint.pt", None)
        remedy.write.pop("checkpoint.sha256", None)
        remedy.aside += [
            n for n in checkpoints if n not in remedy.aside and os.path.lexists(directory / n)
        ]
    if remedy.damage:
        remedy.keep.append(f"{len(events)} lines of the journal, for the record")
        remedy.again = "the whole cell, from its start" + _how_to_import(directory)


def _how_to_import(directory: CellDir) -> str:
    try:
        is_imported = read_description(directory / "cell.json")["kind"] == IMPORTED
    except (Damaged, FileNotFoundError):
        return ""
    return " (`harness import-checkpoint` its file again)" if is_imported else ""


def _checkpoint(directory: CellDir, remedy: Remedy) -> bytes | None:
    """Return the last intact checkpoint: checkpoint.pt, or a successor that a kill left behind.

    It is recognised by its SHA-256; without any known digest, checkpoint.pt is accepted if its own
    check sums hold.
    """
    path, known = directory / "checkpoint.pt", directory.known_digests()
    try:
        data: bytes | None = read_bytes(path)
    except FileNotFoundError:
        data = None
    except Damaged:
        data = b""  # another file is looked for below
    if data is not None and hashlib.sha256(data).hexdigest() in known:
        return data
    valid = [digest for digest in known if len(digest) == 64]
    if data is not None and not valid and _has_check_sums(data):
        remedy.damage.append("checkpoint.sha256 is missing or cannot be read")
        remedy.aside += ["checkpoint.sha256"] * os.path.lexists(directory / "checkpoint.sha256")
        remedy.write["checkpoint.sha256"] = f"{hashlib.sha256(data).hexdigest()}\n".encode()
        return data
    if data is not None:
        remedy.spoil("checkpoint.pt", "does not match its SHA-256")
        for other in sorted(directory.path.glob(".checkpoint.pt.*.tmp")):
            with contextlib.suppress(Damaged):
                if hashlib.sha256(content := read_bytes(other)).hexdigest() in known:
                    remedy.write["checkpoint.pt"] = content
                    return content
    return None


def _has_check_sums(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.testzip() is None
    except Exception:  # a broken archive makes zipfile raise about anything
        return False


def _epochs_of(data: bytes) -> tuple[int, int]:
    """Return the epoch of a checkpoint and the number of journal lines in it; 0 if it has none."""
    from harness.train.checkpoint import from_bytes  # torch takes its time

    try:
        content = from_bytes(data, Path("checkpoint.pt"))
        return int(content["epoch"]), len(content.get("lines", [0]))  # old ones had a single line
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return 0, 0


def reachable(events: Events) -> tuple[Events, int]:
    """Return the events without the epochs after a lost one, and the number of epochs left."""
    kept, n_lines = [], 0
    for event in events:
        if event["event"] == "epoch":
            if event["epoch"] > n_lines + 1:
                continue
            n_lines = event["epoch"]
        kept.append(event)
    return kept, n_lines


def with_gaps(
    events: list[dict[str, Any]], n_epochs: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the events with an empty line for every lost epoch, and the lost epochs."""
    lines: Events = []
    lost: set[int] = set()
    last, now = 0, 0.0

    def fill(until: int) -> None:
        for epoch in range(last + 1, until + 1):
            lost.add(epoch)
            lines.append({"event": "epoch", "epoch": epoch, "time": now})

    for event in events:
        if event["event"] == "epoch":
            fill(event["epoch"] - 1)
            lost -= set(range(event["epoch"], last + 1))
            last = event["epoch"]
        elif event["event"] == "end":
            fill(n_epochs)
            last = max(last, n_epochs)
        now = event["time"]
        lines.append(event)
    fill(n_epochs)
    return lines, sorted(lost)


def _journal(directory: CellDir, events: Events) -> bytes:
    return b"".join(sealed(event, directory.path) for event in events)


def _numbers(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:10]))
    return shown + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def _report(directory: CellDir, remedy: Remedy) -> None:
    for name in directory.unchecked:
        print(f"{directory.path.name}: unchecked: {name} is of a version that wrote no checksums")
    if not remedy.damage:
        print(f"{directory.path}: nothing is damaged")
        return
    for heading, lines in (
        ("damaged", remedy.damage),
        ("kept", remedy.keep),
        ("moved aside", list(dict.fromkeys(remedy.aside))),
        ("trained again", [remedy.again or "nothing"]),
    ):
        for line in lines:
            print(f"{directory.path.name}: {heading}: {line}")


def _apply(directory: CellDir, remedy: Remedy) -> None:
    """Move and write the files. After a crash in between, `harness repair` can be rerun."""
    aside = directory / f"damaged-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    if remedy.aside:
        aside.mkdir()
    for name in dict.fromkeys(remedy.aside):
        if name in remedy.write or (name == PREDICTIONS and remedy.predict):  # until replaced
            with contextlib.suppress(Damaged):
                write_atomically(aside / name, read_bytes(directory / name))
                continue
        os.replace(directory / name, aside / name)
    if remedy.aside:
        print(f"{directory.path.name}: the damaged files are now in {aside}")
    for name, content in remedy.write.items():
        write_atomically(directory / name, content)
    if remedy.predict:
        from harness.train.predictions import predict_again

        try:
            predict_again(directory)
        except UserError as error:
            (directory / PREDICTIONS).unlink(missing_ok=True)
            print(f"{directory.path.name}: no predictions: {error}")
            return
    print(f"{directory.path.name}: mended")
    if remedy.again:
        print(f"{directory.path.name}: `{command_name()} run` with its experiment trains the rest")
