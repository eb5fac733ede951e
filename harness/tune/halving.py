"""Successive halving: train a batch's trials to the rungs, stop the losers, finish the rest.

The trials of a batch are compared at the same epoch, once all of them have reached it. No clock
takes part, so the decision is the same on every machine, with any number of jobs, and after a kill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.common.errors import UserError
from harness.execute.scheduler import Progress
from harness.methods import get_method
from harness.store import Store
from harness.store.manifest import CellOptions
from harness.tune.interleave import Steps
from harness.tune.trials import (
    TrialCells,
    TrialsFailed,
    drop_checkpoint,
    has_diverged,
    validation_curve,
)
from harness.tune.tuning_file import Direction, Tuning, TuningFile


@dataclass(frozen=True)
class Outcome:
    """The end of a trial.

    Attributes:
        trial: its cells.
        value: at the last epoch; None if it was pruned.
        curve: epoch -> value up to where it was stopped; empty if it diverged.
        diverged: whether a loss became infinite.
    """

    trial: TrialCells
    value: float | None
    curve: dict[int, float]
    diverged: bool = False


def rung_epochs(rungs: tuple[float, ...], n_epochs: int, every: int = 1) -> list[int]:
    """Return the epochs (from 1) at which trials are compared.

    For each rung this is the last epoch up to it that is measured, or 0 if none is. Rungs that fall
    on the same epoch count once.

    Args:
        rungs: shares of the training, between 0 and 1.
        n_epochs: length of the training.
        every: number of epochs between two measurements.
    """
    epochs = {max(1, math.ceil(share * n_epochs)) for share in rungs}
    return sorted({e // every * every for e in epochs if e < n_epochs})


def check_rungs(tuning: Tuning) -> None:
    """Raise a UserError if no trial has been measured yet at the first rung."""
    pruning, every = tuning.settings.pruning, tuning.base.protocol.evaluate_every
    if pruning is None:
        return
    for method in tuning.spaces:
        stage = get_method(method).final
        settings = tuning.base.for_method(method)
        n = getattr(settings, stage.schedule).epochs if stage.schedule else 1
        if 0 in rung_epochs(pruning.rungs, n, every):
            raise UserError(
                f"pruning.rungs: {pruning.rungs[0]:g} of {method!r}'s {n} epochs comes before it "
                f"is measured (protocol.evaluate_every: {every}); use rungs from {every / n:.2g} "
                "on, or a lower evaluate_every"
            )


def survivors(values: dict[int, float], keep: float, direction: Direction) -> list[int]:
    """Return the numbers of the trials that continue after a rung, in increasing order.

    Args:
        values: number of a trial -> value at the rung; of equal values the earlier trial is better.
        keep: the share of the trials that continues, rounded up.
        direction: "maximize" or "minimize".
    """
    sign = -1 if direction == "maximize" else 1
    ranked = sorted(values, key=lambda number: (sign * values[number], number))
    return sorted(ranked[: math.ceil(keep * len(ranked))])


def run_batch(
    trials: list[TrialCells], settings: TuningFile, store: Store, options: CellOptions | None
) -> Steps[list[Outcome]]:
    """Train the trials of one method's batch; what the store has is read instead of trained.

    Returns:
        Outcomes in the order of the trials' numbers.

    Raises:
        TrialsFailed: a cell failed, and not because of its settings.
    """
    alive, outcomes = list(trials), []
    for epoch in [*_rungs(trials[0], settings), None]:  # None: to the end
        for trial in alive:
            store.prepare(trial.plan.cells[trial.final], options).pause_after = epoch
        yield from train_all(alive, store)

        diverged = [t for t in alive if has_diverged(t, store)]
        outcomes += [Outcome(t, None, {}, diverged=True) for t in diverged]
        alive = [t for t in alive if t not in diverged]
        curves = {
            t.number: validation_curve(store.directory(t.final), settings.metric, epoch)
            for t in alive
        }
        values = {number: curve[max(curve)] for number, curve in curves.items()}
        if epoch is None or settings.pruning is None:
            outcomes += [Outcome(t, values[t.number], curves[t.number]) for t in alive]
            continue
        kept = survivors(values, settings.pruning.keep, settings.direction)
        pruned = [t for t in alive if t.number not in kept]
        outcomes += [Outcome(t, None, curves[t.number]) for t in pruned]
        alive = [t for t in alive if t.number in kept]
        in_use = {t.final for t in alive}
        for trial in pruned:
            if trial.final not in in_use:  # another trial may have the same settings
                drop_checkpoint(store.directory(trial.final))
    return sorted(outcomes, key=lambda o: o.trial.number)


def _rungs(trial: TrialCells, settings: TuningFile) -> list[int]:
    """Return the epochs after which the trial's last cell pauses."""
    if settings.pruning is None:
        return []
    every = trial.plan.experiment.protocol.evaluate_every
    return rung_epochs(settings.pruning.rungs, trial.n_epochs(trial.final), every)


def train_all(trials: list[TrialCells], store: Store) -> Steps[None]:
    """Train the cells of all trials, each to its pause or its end. They may diverge.

    Raises:
        TrialsFailed: a cell failed for another reason.
    """
    trials = [t for t in trials if not has_diverged(t, store)]
    if not trials:
        return
    progress = yield trials
    failed = [t for t in trials if not has_diverged(t, store) and _has_failed(t, progress)]
    if failed:
        names = ", ".join(f"{t.method} #{t.number}" for t in failed)
        reasons = "; ".join(
            reason
            for fingerprint, reason in progress.errors.items()
            if any(fingerprint in t.cells.values() for t in failed)
        )
        raise TrialsFailed(f"{names}: {reasons}")


def _has_failed(trial: TrialCells, progress: Progress) -> bool:
    return any(progress.state[f] in ("failed", "skipped") for f in trial.cells.values())
