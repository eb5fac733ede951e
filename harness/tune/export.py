"""A study as plain JSON lines, for figures and tables without the store: one line about the study,
one a trial, one a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from harness.common.canonical_json import canonical
from harness.plan import TEACHER
from harness.store import Store
from harness.store.files import write_atomically
from harness.tune.study import Study
from harness.tune.trials import TrialCells
from harness.tune.tuning_file import Tuning
from harness.tune.winner import Candidate

FORMAT = 1
RESULTS = Path("experiments/results/tuning")  # beside the tables' bundles


def bundle_path(tuning: Tuning) -> Path:
    """Where the figures are drawn from, wherever the tuning file lies; of one task of several, in
    a folder of theirs, which no figures are drawn from."""
    if tuning.task is None:
        return RESULTS / f"{tuning.name}.jsonl"
    return RESULTS / tuning.settings.name / f"{tuning.name}.jsonl"


def write_bundle(
    tuning: Tuning,
    identity: dict[str, dict[str, Any]],
    studies: list[Study],
    trials: dict[str, list[TrialCells]],
    candidates: dict[str, list[Candidate]],
    store: Store,
) -> Path:
    """
    Args:
        identity: method -> what its study is about.
        trials: method -> the cells of each trial.
    """
    settings = tuning.settings
    header = {
        "tuning": FORMAT,
        "name": tuning.name,
        "command": f"harness tune {tuning.file.as_posix()}",
        "direction": settings.direction,
        "metric": settings.metric,
        "epochs": epochs_trained(trials, store),
        "studies": identity,
    }
    lines = [header]
    for study in studies:
        space = {k: distribution_to_json(d) for k, d in study.space.items()}
        pairs = zip(study.trials, trials[study.method], strict=True)
        lines += [_line(study.method, t, cells, space) for t, cells in pairs]
        lines += [_candidate_line(c, rank) for rank, c in enumerate(candidates[study.method], 1)]
    path = bundle_path(tuning)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(canonical(line) + "\n" for line in lines).encode())
    return path


def _line(
    method: str, trial: FrozenTrial, cells: TrialCells, space: dict[str, str]
) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "method": method,
        "state": trial.state.name,
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "params": cells.params,
        "distributions": space,
        "curve": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "cells": cells.cells,
        "diverged": bool(trial.user_attrs.get("diverged")),
    }


def _candidate_line(candidate: Candidate, rank: int) -> dict[str, Any]:
    return {
        "candidate": candidate.number,
        "method": candidate.method,
        "rank": rank,
        "value": candidate.value,
        "fresh": {str(seed): value for seed, value in candidate.fresh.items()},
        "mean": candidate.mean,
    }


def epochs_trained(trials: dict[str, list[TrialCells]], store: Store) -> dict[str, dict[str, int]]:
    """Method -> epochs its trials trained, a shared cell counted once, and epochs they would have
    trained each by itself to the end. Without the teacher, and without the re-run."""
    result = {}
    for method, all_cells in trials.items():
        own = {f for t in all_cells for stage, f in t.cells.items() if stage != TEACHER}
        trained = sum(
            event["event"] == "epoch" for f in own for event in store.directory(f).events()
        )
        alone = sum(t.n_epochs_alone for t in all_cells)
        result[method] = {"trained": trained, "alone": alone}
    return result
