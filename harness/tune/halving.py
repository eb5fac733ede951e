"""Successive halving: trains a batch's trials to the rungs, stops the losers, and ends the rest.

The trials of a batch are compared at the same epoch, when all of them have come that far. No clock
takes part, so the decision is the same on every machine, with any number of jobs, and after a kill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.common.errors import UserError
from harness.execute.scheduler import Progress
from harness.methods import find, n_epochs
from harness.store import Store
from harness.tune.interleave import Steps
from harness.tune.trials import TrialCells, TrialsFailed, curve, diverged, drop_checkpoint
from harness.tune.tuning_file import Tuning, TuningFile


@dataclass(frozen=True)
class Outcome:
    """value: None for a pruned trial. curve: what counts of it (nothing, if it diverged)."""

    trial: TrialCells
    value: float | None
    curve: dict[int, float]
    diverged: bool = False


def rung_epochs(rungs: tuple[float, ...], n_epochs: int, every: int = 1) -> list[int]:
    """The epochs of the rungs, from 1: the last one up to there that is measured, of those
    measured `every` so many; 0 where there is none. Rungs that fall together count once."""
    epochs = {max(1, math.ceil(share * n_epochs)) for share in rungs}
    return sorted({e // every * every for e in epochs if e < n_epochs})


def check_rungs(tuning: Tuning) -> None:
    """Before anything is trained.

    Raises:
        UserError: at the first rung no trial has been measured yet.
    """
    pruning, every = tuning.settings.pruning, tuning.base.protocol.evaluate_every
    if pruning is None:
        return
    for method in tuning.spaces:
        stage = find(method).final
        settings = tuning.base.for_method(method)
        n = n_epochs(stage.kind, {s: vars(getattr(settings, s)) for s in stage.all_sections})
        if 0 in rung_epochs(pruning.rungs, n, every):
            raise UserError(
                f"pruning.rungs: {pruning.rungs[0]:g} of {method!r}'s {n} epochs comes before it "
                f"is measured (protocol.evaluate_every: {every}); use rungs from {every / n:.2g} "
                "on, or a lower evaluate_every"
            )


def survivors(values: dict[int, float], keep: float, direction: str) -> list[int]:
    """The trials (by number) that go on from a rung: the best share `keep`, rounded up. Of equal
    values the earlier trial is the better one."""
    sign = -1 if direction == "maximize" else 1
    ranked = sorted(values, key=lambda number: (sign * values[number], number))
    return sorted(ranked[: math.ceil(keep * len(ranked))])


def run_batch(
    trials: list[TrialCells], settings: TuningFile, store: Store, options: dict[str, Any] | None
) -> Steps[list[Outcome]]:
    """Train the trials of one method's batch. Safe to repeat: what the store has is read, not
    trained.

    Args:
        options: of `Store.prepare`.

    Raises:
        TrialsFailed: a cell failed, and it was not the fault of its settings.
    """
    alive, outcomes = list(trials), []
    for rung in [*range(len(settings.pruning.rungs) if settings.pruning else 0), None]:
        goal = _goal(trials[0], settings, rung)
        for trial in alive:
            cell = trial.plan.cells[trial.final]
            store.prepare(cell, options).pause_after = goal
        yield from train_all(alive, store)

        lost = [t for t in alive if diverged(t, store)]
        outcomes += [Outcome(t, None, {}, diverged=True) for t in lost]
        alive = [t for t in alive if t not in lost]
        curves = {t.number: curve(store.directory(t.final), settings.metric, goal) for t in alive}
        values = {number: found[max(found)] for number, found in curves.items()}
        if rung is None:
            outcomes += [Outcome(t, values[t.number], curves[t.number]) for t in alive]
        elif goal is not None:
            assert settings.pruning is not None
            kept = survivors(values, settings.pruning.keep, settings.direction)
            pruned = [t for t in alive if t.number not in kept]
            outcomes += [Outcome(t, None, curves[t.number]) for t in pruned]
            alive = [t for t in alive if t.number in kept]
            in_use = {t.final for t in alive}
            for trial in pruned:
                if trial.final not in in_use:  # another trial may have the same settings
                    drop_checkpoint(store.directory(trial.final))
    return sorted(outcomes, key=lambda o: o.trial.number)


def _goal(trial: TrialCells, settings: TuningFile, rung: int | None) -> int | None:
    """The epoch after which the trial's last cell pauses; None for its end. Rungs that fall
    together in a short training are compared once."""
    if rung is None or settings.pruning is None:
        return None
    every = trial.plan.experiment.protocol.evaluate_every
    epochs = rung_epochs(settings.pruning.rungs, trial.n_epochs, every)
    return epochs[rung] if rung < len(epochs) else None


def train_all(trials: list[TrialCells], store: Store) -> Steps[None]:
    """Train the cells of all trials, each to its pause or its end; those that diverge may.

    Raises:
        TrialsFailed: a cell failed otherwise.
    """
    trials = [t for t in trials if not diverged(t, store)]
    if not trials:
        return
    progress = yield trials
    broken = [t for t in trials if not diverged(t, store) and _failed(t, progress)]
    if broken:
        names = ", ".join(f"{t.method} #{t.number}" for t in broken)
        reasons = "; ".join(
            reason
            for fingerprint, reason in progress.errors.items()
            if any(fingerprint in t.cells.values() for t in broken)
        )
        raise TrialsFailed(f"{names}: {reasons}")


def _failed(trial: TrialCells, progress: Progress) -> bool:
    return any(progress.state[f] in ("failed", "skipped") for f in trial.cells.values())
