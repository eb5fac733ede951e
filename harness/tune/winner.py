"""The honest winner: the best trials trained anew with fresh seeds, and its experiment file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import methods
from harness.common.errors import UserError
from harness.data import Dataset
from harness.experiment.file import parse, with_class_order
from harness.experiment.tuned import Tuned
from harness.store import Store
from harness.store.files import write_atomically
from harness.tune.halving import train_all
from harness.tune.interleave import Steps
from harness.tune.study import Study
from harness.tune.trials import TrialCells, TrialsFailed, cells_of, curve, diverged
from harness.tune.tuning_file import Params, Tuning, nested


def final_protocol(tuning: Tuning) -> dict[str, Any]:
    """Of the tuned experiment: train + validation, last epoch. Where students have few images,
    these stay those of the training part: validation images would be other ones than those that
    the settings were tuned with."""
    tasks, every = tuning.base.tasks, tuning.base.protocol.evaluate_every
    few = tasks is not None and any(task.shots is not None for task in tasks.all)
    protocol = {
        "preset": "strict",
        "train_on": "train" if few else "train+validation",
        "selection": "last",
    }
    return protocol if every == 1 else {**protocol, "evaluate_every": every}


@dataclass(frozen=True)
class Candidate:
    """One of the best trials. value: of its trial. fresh: seed -> value of its re-run; None where
    it diverged, which rules it out."""

    method: str
    number: int
    params: Params
    value: float
    fresh: dict[int, float | None]
    commits: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        values = [v for v in self.fresh.values() if v is not None]
        return sum(values) / len(values) if len(values) == len(self.fresh) else None


def confirm(study: Study, dataset: Dataset, store: Store) -> Steps[list[Candidate]]:
    """Train the best trials of a study with the fresh seeds; returns the candidates, the winner
    first.

    Raises:
        TrialsFailed: a cell failed, or every candidate diverged.
    """
    settings = study.tuning.settings
    best = study.best(settings.top_k)
    if not best:
        raise TrialsFailed(f"{study.name}: every trial diverged; narrow its search space")
    trainings = {
        t.number: {
            seed: cells_of(study.tuning, dataset, study.method, t.number, t.params, seed)
            for seed in settings.fresh_seeds
        }
        for t in best
    }
    yield from train_all([r for by_seed in trainings.values() for r in by_seed.values()], store)

    candidates = [_candidate(study, t.number, t.value, trainings[t.number], store) for t in best]
    stable = [c for c in candidates if c.mean is not None]
    if not stable:
        raise TrialsFailed(
            f"{study.name}: each of the best trials diverges with some fresh seed; narrow its "
            "search space"
        )
    # sorted() is stable: of equal means the trial that was better comes first.
    sign = -1 if settings.direction == "maximize" else 1
    ranked = sorted(stable, key=lambda c: sign * (c.mean or 0.0))
    return ranked + [c for c in candidates if c.mean is None]


def _candidate(
    study: Study, number: int, value: float | None, runs: dict[int, TrialCells], store: Store
) -> Candidate:
    fresh: dict[int, float | None] = {}
    commits: set[str] = set()
    for seed, run in runs.items():
        if diverged(run, store):
            fresh[seed] = None
            continue
        directory = store.directory(run.final)
        values = curve(directory, study.tuning.settings.metric)
        fresh[seed] = values[max(values)]
        manifest = directory.manifest
        changed = "-dirty" if manifest["dirty"] else ""
        commits |= {f"{commit}{changed}" for commit in manifest["commits"]}
    params = next(iter(runs.values())).params
    assert value is not None  # a COMPLETE trial has one
    return Candidate(study.method, number, params, value, fresh, tuple(sorted(commits)))


def tuned_path(tuning: Tuning) -> Path:
    return tuning.experiment_file.parent / f"{tuning.settings.name}.tuned.yaml"


def tuned_fields(tuning: Tuning, winners: dict[str, Tuned]) -> dict[str, Any]:
    """The fields of the final experiment: those of the experiment that was tuned, as written, with
    the tuned methods, each with its settings; trained on train + validation, last epoch.

    Raises:
        UserError: they do not make an experiment.
    """
    order = [*winners, *(methods.find(name).name for name in tuning.settings.untuned)]
    written = [m for m in tuning.base.methods if m in order]
    order = [*written, *(m for m in order if m not in written)]
    unused = methods.unused_sections(methods.find(name) for name in order)
    raw = {key: value for key, value in tuning.raw.items() if key not in unused}
    name, protocol = tuning.settings.name, final_protocol(tuning)
    raw["name"] = f"{name}-tuned"
    raw["description"] = (
        f"{name}: tuned on the validation split; trained on "
        f"{protocol['train_on'].replace('+', ' + ')}, last epoch."
    )
    raw["methods"] = order
    raw["protocol"] = protocol
    raw["tuned"] = {m: _as_written(w) for m, w in winners.items()}
    if tuning.base.tasks is not None and "tasks" in tuning.settings.set:
        raw["tasks"] = tuning.base.tasks.model_dump(mode="json", exclude_defaults=True)
    parse(with_class_order(raw, tuning.experiment_file.parent), str(tuned_path(tuning)))
    return raw


def _as_written(winner: Tuned) -> dict[str, Any]:
    """Of each task both dimensions, first, also where they are the default."""
    fields = winner.model_dump(mode="json", exclude_defaults=True)
    if winner.tasks:
        pairs = zip(winner.tasks, fields["tasks"], strict=True)
        fields["tasks"] = [own.task.dimensions | written for own, written in pairs]
    return fields


def check_final(tuning: Tuning) -> None:
    """Before anything is trained.

    Raises:
        UserError: the winners would not make an experiment.
    """
    try:
        nothing: dict[str, Any] = {"settings": {}}
        found = [(part, dict.fromkeys(part.spaces, nothing)) for part in tuning.parts]
        tuned_fields(tuning, _tuned(tuning, found))
    except UserError as error:
        raise UserError(f"methods: {error}") from None


Winners = dict[str, list[Candidate]]  # method -> its best trials, the winner first


def write_winner(tuning: Tuning, found: list[tuple[Tuning, Winners]]) -> Path:
    """Freeze the winners into an ordinary experiment file.

    found: of each of the tuning's parts.
    """
    tuned = _tuned(
        tuning,
        [
            (part, {method: _settings(part, best) for method, (best, *_) in winners.items()})
            for part, winners in found
        ],
    )
    path = tuned_path(tuning)
    trials = tuning.settings.trials
    each = " and task" if tuning.base.tasks else ""
    budget = ", ".join(f"{m} {trials}" for m in tuned)
    header = f"""\
# Written by `harness tune {tuning.file.as_posix()}`; tune again rather than edit it.
# {tuning.experiment_file.name} with the settings that did best on the validation split.
# Trials of each method{each}: {budget}. The {tuning.settings.top_k} best were trained anew with the
# seeds under `seeds`; `validation` is the winner's mean accuracy there. No trial had a test set:
# this file is what meets it, once.
"""
    text = yaml.safe_dump(
        tuned_fields(tuning, tuned), sort_keys=False, width=100, allow_unicode=True
    )
    write_atomically(path, (header + text).encode())
    return path


def _tuned(
    tuning: Tuning, found: list[tuple[Tuning, dict[str, dict[str, Any]]]]
) -> dict[str, Tuned]:
    """The experiment's section. found: of each part, method -> the fields of its winner."""
    if tuning.base.tasks is None:
        ((_, winners),) = found
        return {method: Tuned.model_validate(fields) for method, fields in winners.items()}
    own = {
        method: [
            part.task.dimensions | winners[method]
            for part, winners in found
            if part.task is not None and method in winners
        ]
        for method in tuning.spaces
    }
    return {method: Tuned.model_validate({"tasks": tasks}) for method, tasks in own.items()}


def _settings(tuning: Tuning, best: Candidate) -> dict[str, Any]:
    """The fields of a winner, as `harness.experiment.tuned` has them."""
    return {
        "settings": nested(best.params),
        "study": f"{tuning.name}/{best.method}",
        "trial": best.number,
        "trials": tuning.settings.trials,
        "seeds": tuple(best.fresh),
        "validation": best.mean,
        "commits": best.commits,
    }
