"""The ordinary cells that a trial trains, and what their journals say of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from harness.data import Dataset
from harness.plan import TEACHER, Plan, make_plan
from harness.store import CellDir, Store
from harness.tune.space import as_field
from harness.tune.tuning_file import Params, Tuning

TrialKey = tuple[str, int]  # method and number


class TrialsFailed(Exception):
    """A cell failed, and not because of its settings. Its trial stays open for the next call."""


@dataclass(frozen=True)
class TrialCells:
    """The cells of one training of a trial.

    Attributes:
        method: the method that is tuned.
        number: of the trial in its study.
        params: field -> value.
        plan: the teacher (if the method has one) and the method's stages; the last is measured.
    """

    method: str
    number: int
    params: Params
    plan: Plan

    @property
    def key(self) -> TrialKey:
        """The identity of the trial within a tuning."""
        return self.method, self.number

    @property
    def final(self) -> str:
        """The fingerprint of the last cell, whose validation accuracy is the trial's value."""
        return self.plan.entries[-1].fingerprint

    @property
    def cells(self) -> dict[str, str]:
        """Stage, or "teacher" -> fingerprint."""
        return {e.stage: e.fingerprint for e in self.plan.entries}

    @property
    def students(self) -> list[str]:
        """The fingerprints of all cells but the teacher's."""
        return [f for stage, f in self.cells.items() if stage != TEACHER]

    def n_epochs(self, fingerprint: str) -> int:
        """Return the number of epochs of one of the cells."""
        return self.plan.cells[fingerprint].epochs


def cells_of(
    tuning: Tuning,
    dataset: Dataset,
    method: str,
    number: int,
    params: Params,
    seed: int | None = None,
) -> TrialCells:
    """Plan the cells of a trial, trained with `seed` or else with the trials' one."""
    params = {field: as_field(tuning.base, field, value) for field, value in params.items()}
    plan = make_plan(tuning.trial(method, params, None if seed is None else (seed,)), dataset)
    entries = tuple(
        e if e.stage == TEACHER else replace(e, student=f"{e.student} #{number}")
        for e in plan.entries
    )
    return TrialCells(method, number, params, Plan(plan.experiment, plan.cells, entries))


def merge_plans(trials: Iterable[TrialCells]) -> Plan:
    """Return one plan with the cells of all trials, in which a shared cell occurs once."""
    plans = [trial.plan for trial in trials]
    cells = {f: cell for plan in plans for f, cell in plan.cells.items()}
    entries = tuple(dict.fromkeys(e for plan in plans for e in plan.entries))
    return Plan(plans[0].experiment, cells, entries)


def validation_curve(directory: CellDir, metric: str, stop: int | None = None) -> dict[int, float]:
    """Return epoch -> value on the validation split, up to and including epoch `stop`."""
    lines = directory.epochs()[:stop]
    return {line["epoch"]: line[metric] for line in lines if metric in line}


def has_diverged(trial: TrialCells, store: Store) -> bool:
    """Return whether a cell's loss became infinite.

    The same cell would diverge again, so this is a result, not a failure.
    """
    for fingerprint in trial.cells.values():
        directory = store.directory(fingerprint)
        if not directory.is_done:
            events = directory.events()
            if events and events[-1].get("diverged"):
                return True
    return False


def drop_checkpoint(directory: CellDir) -> None:
    """Delete the checkpoint of a pruned trial's cell, but not its journal.

    If the cell is asked for again, it trains from its start.
    """
    if directory.path.exists():
        with directory.lease():
            directory.drop_checkpoint()
