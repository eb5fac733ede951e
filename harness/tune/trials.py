"""A trial is a set of ordinary cells. What it measured is read from their journals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from harness.data import Dataset
from harness.methods import n_epochs
from harness.plan import TEACHER, Plan, make_plan
from harness.store import CellDir, Store
from harness.tune.space import as_field
from harness.tune.tuning_file import Params, Tuning

Key = tuple[str, int]


class TrialsFailed(Exception):
    """A cell failed for another reason than its settings. Its trial stays open: the next call
    tries it again."""


@dataclass(frozen=True)
class TrialCells:
    """One training of one trial.

    plan: teacher (if the method has one) and the method's stages; the last is measured.
    """

    method: str
    number: int
    params: Params
    plan: Plan

    @property
    def key(self) -> Key:
        return self.method, self.number

    @property
    def final(self) -> str:
        """Fingerprint of the last cell: its validation accuracy is the trial's value."""
        return self.plan.entries[-1].fingerprint

    @property
    def n_epochs(self) -> int:
        cell = self.plan.cells[self.final]
        return n_epochs(cell.kind, cell.spec)

    @property
    def n_epochs_alone(self) -> int:
        """Epochs of the whole trial, were nothing shared; without the teacher."""
        cells = [self.plan.cells[f] for stage, f in self.cells.items() if stage != TEACHER]
        return sum(n_epochs(cell.kind, cell.spec) for cell in cells)

    @property
    def cells(self) -> dict[str, str]:
        """Stage, or "teacher" -> fingerprint."""
        return {e.stage: e.fingerprint for e in self.plan.entries}


def cells_of(
    tuning: Tuning,
    dataset: Dataset,
    method: str,
    number: int,
    params: dict[str, Any],
    seed: int | None = None,
) -> TrialCells:
    """The cells of a trial, with another seed for the re-run of the best trials."""
    whole = {k: as_field(tuning.base, k, v) for k, v in params.items()}
    plan = make_plan(tuning.trial(method, whole, None if seed is None else (seed,)), dataset)
    entries = tuple(
        e if e.stage == TEACHER else replace(e, student=f"{e.student} #{number}")
        for e in plan.entries
    )
    return TrialCells(method, number, whole, Plan(plan.experiment, plan.cells, entries))


def together(trials: Iterable[TrialCells]) -> Plan:
    """One plan with the cells of all trials; a cell they share is there once."""
    trials = list(trials)
    cells = {f: cell for t in trials for f, cell in t.plan.cells.items()}
    entries = tuple(dict.fromkeys(e for t in trials for e in t.plan.entries))
    return Plan(trials[0].plan.experiment, cells, entries)


def curve(directory: CellDir, metric: str, stop: int | None = None) -> dict[int, float]:
    """Epoch -> value on the validation split, up to epoch `stop`."""
    lines = directory.epochs()[:stop]
    return {line["epoch"]: line[metric] for line in lines if metric in line}


def diverged(trial: TrialCells, store: Store) -> bool:
    """Whether a cell's loss became infinite. The same cell would do so again, so it is a result."""
    for fingerprint in trial.cells.values():
        directory = store.directory(fingerprint)
        if not directory.is_done:
            events = directory.events()
            if events and events[-1].get("diverged"):
                return True
    return False


def drop_checkpoint(directory: CellDir) -> None:
    """Of a pruned trial. Its journal stays; asked for again, the cell trains from its start."""
    if directory.path.exists():
        with directory.lease():
            directory.drop_checkpoint()
