"""The CPU time of commands over thousands of finished cells, and of a look at a long journal.

    python benchmarks/scale.py [--save]

The store is made without training: the cells of one seed are copied for all seeds, under the
fingerprints and checksums of their own. Whole commands are measured, with the start of Python, and
of their time that of the processor in the program (user time), which other processes change least.
"""

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from arguments import chosen_device, keep, machine, parser_of
from frame import Record, record, rounded
from grid import ROOT, harness

from harness.common.canonical_json import canonical
from harness.experiment.file import read
from harness.plan import Plan
from harness.run.grid import plan_of
from harness.store import CellDir, checked
from harness.store.cell_files import read_json, sealed
from harness.store.journal import Journal

sys.path.append(str(ROOT / "tests"))  # which makes finished cells without training
from bundles import mark_as_sent, without_training

EXPERIMENT = {
    "name": "scale",
    "dataset": {"name": "digits", "validation": 100, "test": 1400},
    "network": {"network": "wide_resnet", "dropout": 0.0},
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["plain", "kd", "refilled"],
    **{section: {"epochs": 10} for section in ("training", "stage1", "stage2")},
    "claims": ["refilled > plain", "kd > plain"],
}
SEEDS, MORE, EPOCHS = 2_500, 5, 10_000  # four cells per seed; MORE times as many are only planned
MODEL_BYTES = 320_000  # those of a WRN-10-1


def write_experiment(folder: Path, n_seeds: int) -> str:
    """Write the experiment with so many seeds; return the name of its file in `folder`."""
    name = f"scale-{n_seeds}.yaml"
    text = yaml.safe_dump(EXPERIMENT | {"seeds": list(range(n_seeds))}, default_flow_style=True)
    (folder / name).write_text(text)
    return name


def finish(folder: Path, n_seeds: int) -> Plan:
    """Make a store in `folder` with the cells of all seeds done; return their plan."""
    one = plan_of(read(folder / write_experiment(folder, 1)))
    plan = plan_of(read(folder / write_experiment(folder, n_seeds)))
    without_training(one, folder / "one")
    mark_as_sent(one, folder / "one")
    samples = {cell.kind: CellDir(folder / "one" / f[:16]) for f, cell in one.cells.items()}
    root, model = folder / "runs", os.urandom(MODEL_BYTES)
    root.mkdir()
    (folder / "model.pt").write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    parts = {
        kind: (read_json(sample / "manifest.json") | {"model_sha256": digest}, sample.events())
        for kind, sample in samples.items()
    }
    for fingerprint, cell in plan.cells.items():
        directory, sample = CellDir(root / fingerprint[:16]), samples[cell.kind]
        manifest, events = parts[cell.kind]
        directory.path.mkdir()
        (directory / "cell.json").write_text(json.dumps(cell.as_json()))
        (directory / "manifest.json").write_bytes(sealed(manifest, directory.path))
        journal = b"".join(sealed(event, directory.path) for event in events)
        (directory / "journal.jsonl").write_bytes(journal)
        os.link(folder / "model.pt", directory / "model.pt")
        for name in ("predictions.npz", "mlflow.json"):
            os.link(sample / name, directory / name)
    (key,) = read_json(folder / "one" / "mlflow.json")
    cells = hashlib.sha256(" ".join(sorted(plan.cells)).encode()).hexdigest()
    sent = {"parent": "grid", "cells": cells, "has_summary": True}
    (root / "mlflow.json").write_text(canonical({key: sent}))
    (folder / "mlflow.db").touch()
    time.sleep(checked.TICK / 1e9)  # nobody vouches for files that were written just now
    return plan


def user_seconds(call: Callable[[], object], who: int = resource.RUSAGE_SELF) -> float:
    """Return the processor's seconds in the program that a call takes; `who` as in getrusage."""
    before = resource.getrusage(who).ru_utime
    call()
    return resource.getrusage(who).ru_utime - before


def command_seconds(folder: Path, *arguments: str, status: int = 0) -> float:
    """Return the user time of `harness ARGUMENTS` in `folder`, which ends with this status."""

    def call() -> None:
        done = harness([*arguments], ROOT, folder)
        if done.returncode != status:
            raise RuntimeError(f"harness {' '.join(arguments)}: {done.stderr.strip()}")

    return user_seconds(call, resource.RUSAGE_CHILDREN)


def journal_seconds(folder: Path, n_epochs: int) -> dict[str, float]:
    """Return the user time of the first look at a journal, and of one after each epoch more."""
    directory = CellDir(folder / "0123456789abcdef")
    directory.path.mkdir()
    line = {"time": 1.0, "seconds": 1.0, "lr": 0.1, "loss/total": 1 / 3, "validation/accuracy": 0.9}
    events = [{"event": "epoch", "epoch": n, **line} for n in range(1, n_epochs + 101)]
    directory.extend(events[:n_epochs])
    journal = Journal(directory / "journal.jsonl")
    first, later = user_seconds(journal.look), 0.0
    for event in events[n_epochs:]:
        directory.extend([event])
        later += user_seconds(lambda: journal.look().epochs)
    return {
        f"the first look at a journal of {n_epochs:,} epochs": first,
        "a look after one epoch more": later / (len(events) - n_epochs),
    }


def measured(folder: Path, n_seeds: int, n_epochs: int) -> dict[str, float]:
    """Return what was done -> seconds of user time."""
    plan = finish(folder, n_seeds)
    n, file, more = (
        len(plan.cells),
        f"scale-{n_seeds}.yaml",
        write_experiment(folder, MORE * n_seeds),
    )
    commands = {
        f"harness status, {n:,} cells done, for the first time": ("status", file),
        "harness status, again": ("status", file),
        "harness status --verify": ("status", file, "--verify"),
        "harness run, nothing to do": ("run", file),
        f"harness plan, {n:,} cells": ("plan", file, "--no-estimate"),
        f"harness plan, {MORE * n:,} cells": ("plan", more, "--no-estimate", "--store", "none"),
        f"harness tables --print, {n_seeds:,} seeds": ("tables", file, "--print"),
    }
    seconds = {name: command_seconds(folder, *words) for name, words in commands.items()}
    name = f"harness verdicts, {n_seeds:,} seeds"
    seconds[name] = command_seconds(folder, "verdicts", file, status=4)  # nothing to compare with
    return seconds | journal_seconds(folder, n_epochs)


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    arguments = parser_of((__doc__ or "").splitlines()[0], rounds=1).parse_args(argv)
    device = chosen_device(arguments)
    n_seeds, n_epochs = (3, 20) if arguments.quick else (SEEDS, EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measured(Path(folder), n_seeds, n_epochs)
    for name, value in seconds.items():
        print(f"{name:<60}{1000 * value:>10.2f} ms")
    shown = {name: rounded(value) for name, value in seconds.items()}
    setting = {"seeds": n_seeds, "epochs": n_epochs, "shown": "user time"}
    kept = record("scale", machine(device), setting, seconds=shown)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
