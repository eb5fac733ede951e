"""Whole cells trained on a few digits, for tests of training."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from helpers import ROOT, weights
from torch import Tensor

from harness.cell import Cell, CellConfig
from harness.common.metrics import EVALUATION_SECONDS
from harness.data import load
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.plan import Plan, make_plan
from harness.store import CellDir, Store
from harness.train import loop
from harness.train.cell import run_cell
from harness.train.exit_status import DONE

CPU = torch.device("cpu")
loop.CHECKPOINT_SECONDS = 0.0  # in this process: one after each of the short epochs
KINDS = ["supervised", "kd", "stage1", "stage2"]
VERSION = {"commit": "0" * 40, "dirty": False}
RAW: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "digits", "validation": 100, "test": 1400},  # 297 train
    "network": {"network": "wide_resnet", "dropout": 0.2},
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["plain", "kd", "refilled"],
    "optimizer": {"batch_size": 64},
    "training": {"epochs": 3},
    "stage1": {"epochs": 3, "select_every": 1},
    "stage2": {"epochs": 3, "lambd": 10},
}


def config(**parts: Any) -> CellConfig:
    """Return a cell's config from JSON; data and network are made up if left out."""
    made_up = {
        "data": {"name": "digits", "digest": ""},
        "network": {"network": "wide_resnet", "depth": 10, "width": 1},
    }
    return CellConfig.from_json(made_up | parts)


def changed(cell: Cell, **parts: Any) -> Cell:
    """Return the cell with the given values changed, also inside sections."""
    written = cell.config.as_json()
    for name, part in parts.items():
        written[name] = {**written[name], **part} if isinstance(part, dict) else part
    return replace(cell, config=CellConfig.from_json(written))


@dataclass(frozen=True)
class Grid:
    """The tiny grid (one cell per kind) in a store."""

    plan: Plan
    store: Store

    def cell(self, kind: str) -> Cell:
        """Return the first cell of its kind: for "supervised", the teacher."""
        return next(c for c in self.plan.cells.values() if c.kind == kind)

    def directory(self, kind: str) -> CellDir:
        return self.store.prepare(self.cell(kind))


def tiny(root: Path, *assignments: str) -> Grid:
    experiment = parse(apply_overrides(RAW, list(assignments)))
    store = Store(root)
    store.create()
    return Grid(make_plan(experiment, load(experiment.dataset)), store)


def go(directory: CellDir, should_stop: Callable[[], bool] = lambda: False) -> int:
    try:
        return run_cell(directory, "cpu", 1, VERSION, should_stop)
    finally:  # it is written for a process of its own and changes settings
        torch.use_deterministic_algorithms(False)


def train_all(grid: Grid) -> Grid:
    for cell in grid.plan.cells.values():
        assert go(grid.store.prepare(cell)) == DONE
    return grid


def copy_without(trained: Grid, kind: str, root: Path) -> tuple[Grid, CellDir]:
    """Copy the trained store without the cell of `kind`; return both."""
    shutil.copytree(trained.store.root, root / "runs")
    grid = Grid(trained.plan, Store(root / "runs"))
    shutil.rmtree(grid.directory(kind).path)
    return grid, grid.directory(kind)


class StopAfter:
    """Stops at the `n`-th batch."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def command(directory: CellDir) -> list[str]:
    return [
        *(sys.executable, "-m", "harness.train.cell", str(directory.path)),
        *("--device", "cpu", "--threads", "1"),
    ]


def start_process(directory: CellDir) -> "subprocess.Popen[str]":
    return subprocess.Popen(command(directory), cwd=ROOT, stderr=subprocess.PIPE, text=True)


def metrics(directory: CellDir) -> list[dict[str, Any]]:
    """Return the epoch lines without measured times."""
    clock = ("time", "seconds", "images_per_second", EVALUATION_SECONDS)
    return [{k: v for k, v in line.items() if k not in clock} for line in directory.epochs()]


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def assert_same_result(a: CellDir, b: CellDir) -> None:
    assert same_state(weights(a), weights(b))
    assert metrics(a) == metrics(b)
    for key in ("results", "selected_epoch"):
        assert getattr(a.manifest, key) == getattr(b.manifest, key)


def failure(directory: CellDir) -> str:
    """Return the reason of the last event, a failure: one line."""
    last = directory.events()[-1]
    assert last["event"] == "failed"
    assert "\n" not in last["error"]
    assert not directory.is_done
    return last["error"]
