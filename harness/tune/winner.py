"""The winner: the best trials are trained again with fresh seeds; the experiment it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import methods
from harness.common.errors import UserError
from harness.common.files import write_user_file
from harness.data import Dataset
from harness.experiment.claims import parse_claim
from harness.experiment.file import parse
from harness.experiment.sources import load_class_order
from harness.experiment.tuned import TaskTuned, Tuned, TunedSettings
from harness.methods.base import TEACHER
from harness.store import Store
from harness.tune.halving import train_all
from harness.tune.interleave import Steps
from harness.tune.study import Study
from harness.tune.trials import TrialCells, TrialsFailed, cells_of, has_diverged, validation_curve
from harness.tune.tuning_file import Params, Tuning, nested


@dataclass(frozen=True)
class Candidate:
    """A trial that was among the best, and its re-run.

    Attributes:
        method: the method that is tuned.
        number: of the trial.
        params: field -> value.
        value: of the trial.
        fresh: seed -> value of the re-run; None if it diverged, which rules the trial out.
        commits: the code that trained the re-run.
        after_startup: whether the trial came after the random ones.
    """

    method: str
    number: int
    params: Params
    value: float
    fresh: dict[int, float | None]
    commits: tuple[str, ...]
    after_startup: bool

    @property
    def mean(self) -> float | None:
        """The mean over the fresh seeds; None if one of them diverged."""
        values = [v for v in self.fresh.values() if v is not None]
        return sum(values) / len(values) if len(values) == len(self.fresh) else None


Winners = dict[str, list[Candidate]]  # method -> its best trials, the winner first


def confirm(study: Study, dataset: Dataset, store: Store) -> Steps[list[Candidate]]:
    """Train the best trials of a study with the fresh seeds; return them, the winner first.

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

    candidates = [_candidate(study, t.value, trainings[t.number], store) for t in best]
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
    study: Study, value: float | None, trainings: dict[int, TrialCells], store: Store
) -> Candidate:
    assert value is not None, "a complete trial has a value"
    fresh: dict[int, float | None] = {}
    commits: set[str] = set()
    for seed, training in trainings.items():
        if has_diverged(training, store):
            fresh[seed] = None
            continue
        directory = store.directory(training.final)
        values = validation_curve(directory, study.tuning.settings.metric)
        fresh[seed] = values[max(values)]
        manifest = directory.manifest
        suffix = "-dirty" if manifest.dirty else ""
        commits |= {f"{commit}{suffix}" for commit in manifest.commits}
    trial = next(iter(trainings.values()))
    return Candidate(
        study.method,
        trial.number,
        trial.params,
        value,
        fresh,
        tuple(sorted(commits)),
        after_startup=trial.number >= study.tuning.settings.n_random,
    )


def tuned_path(tuning: Tuning) -> Path:
    """Return the path of the tuned experiment, beside the experiment that was tuned."""
    return tuning.experiment_file.parent / f"{tuning.settings.name}.tuned.yaml"


def final_protocol(tuning: Tuning) -> dict[str, Any]:
    """Return the tuned experiment's protocol: train + validation, last epoch.

    If students have few images, it is the training part alone. Their images are drawn from that
    part under every protocol, so validation images would only change the teacher, for which the
    settings were tuned.
    """
    tasks, every = tuning.base.tasks, tuning.base.protocol.evaluate_every
    few = tasks is not None and any(task.shots is not None for task in tasks.all)
    protocol = {
        "preset": "strict",
        "train_on": "train" if few else "train+validation",
        "selection": "last",
    }
    return protocol if every == 1 else {**protocol, "evaluate_every": every}


def tuned_fields(tuning: Tuning, winners: dict[str, Tuned]) -> dict[str, Any]:
    """Return the fields of the tuned experiment.

    They are those of the experiment that was tuned, as written, with the tuned methods and their
    settings, and with the final protocol. The experiment's own methods that its claims name are
    kept, untuned; claims about other methods are dropped.

    Raises:
        UserError: the fields do not make an experiment.
    """
    tuned = [*winners, *(methods.get_method(name).name for name in tuning.settings.untuned)]
    named = [_names(claim) for claims in _claims(tuning.raw).values() for claim in claims]
    claimed = {m for names in named if names <= {*tuning.base.methods, *tuned} for m in names}
    written = [m for m in tuning.base.methods if m in tuned or m in claimed]
    order = [*written, *(m for m in tuned if m not in written)]
    unused = methods.unused_sections(methods.get_method(name) for name in order)
    raw = {key: value for key, value in tuning.raw.items() if key not in unused}
    name, protocol = tuning.settings.name, final_protocol(tuning)
    raw["name"] = f"{name}-tuned"
    raw["description"] = (
        f"{name}: tuned on the validation split; trained on "
        f"{protocol['train_on'].replace('+', ' + ')}, last epoch."
    )
    raw["methods"] = order
    raw["protocol"] = protocol
    for field, claims in _claims(raw).items():
        raw[field] = [claim for claim in claims if _names(claim) <= {*order}]
    raw["tuned"] = {method: _as_written(section) for method, section in winners.items()}
    if tuning.base.tasks is not None and "tasks" in tuning.settings.set:
        raw["tasks"] = tuning.base.tasks.model_dump(mode="json", exclude_defaults=True)
    parse(load_class_order(raw, tuning.experiment_file.parent), str(tuned_path(tuning)))
    return raw


def _claims(raw: dict[str, Any]) -> dict[str, list[str]]:
    """Return the fields of an experiment that hold claims; a single one may stand alone there."""
    fields = {field: raw[field] for field in ("claims", "secondary_claims") if raw.get(field)}
    return {field: [v] if isinstance(v, str) else list(v) for field, v in fields.items()}


def _names(claim: str) -> set[str]:
    """Return the methods that a claim compares."""
    parsed = parse_claim(claim)
    return {q.method for q in (parsed.left, parsed.right) if q} - {TEACHER}


def _as_written(section: Tuned) -> dict[str, Any]:
    """Return the section's fields, both dimensions of each task first, even if defaults."""
    fields = section.model_dump(mode="json", exclude_defaults=True)
    if section.tasks:
        pairs = zip(section.tasks, fields["tasks"], strict=True)
        fields["tasks"] = [tuned.task.dimensions | written for tuned, written in pairs]
    return fields


def check_final(tuning: Tuning) -> None:
    """Raise a UserError if the winners would not make an experiment."""
    try:
        seeds, first = tuning.settings.fresh_seeds, tuning.settings.trial_seed
        untrained = TunedSettings(settings={}, seeds=seeds, trial_seed=first)
        parts = [(part, dict.fromkeys(part.spaces, untrained)) for part in tuning.parts]
        tuned_fields(tuning, _tuned_sections(tuning, parts))
    except UserError as error:
        raise UserError(f"methods: {error}") from None


def write_winner(tuning: Tuning, winners: list[tuple[Tuning, Winners]]) -> Path:
    """Write the file of the tuned experiment and return its path; `winners` are of each part."""
    settings = [
        (part, {method: _tuned_settings(part, best) for method, (best, *_) in of_part.items()})
        for part, of_part in winners
    ]
    sections = _tuned_sections(tuning, settings)
    path = tuned_path(tuning)
    per_task = " and task" if tuning.base.tasks else ""
    budget = ", ".join(
        f"{method} {tuning.n_trials(method)} ({len(tuning.spaces[method])})" for method in sections
    )
    header = f"""\
# Written by `harness tune {tuning.file.as_posix()}`; tune again rather than edit it.
# {tuning.experiment_file.name} with the settings that did best on the validation split.
# Trials (and tuned parameters) of each method{per_task}: {budget}.
# The {tuning.settings.top_k} best were trained again with the seeds under `seeds`; `validation` is
# the winner's mean accuracy there. No trial had a test set: this experiment meets it for the first
# time.
"""
    fields = tuned_fields(tuning, sections)
    kept = [claim for claims in _claims(fields).values() for claim in claims]
    for claim in (c for claims in _claims(tuning.raw).values() for c in claims if c not in kept):
        print(f"claim dropped: {claim!r} is about a method that {path.name} lacks; tune it, too")
    text = yaml.safe_dump(fields, sort_keys=False, width=100, allow_unicode=True)
    write_user_file(path, header + text)
    return path


def _tuned_sections(
    tuning: Tuning, parts: list[tuple[Tuning, dict[str, TunedSettings]]]
) -> dict[str, Tuned]:
    """Return method -> its `tuned` section, from the winners of each part."""
    if tuning.base.tasks is None:
        ((_, winners),) = parts
        return {method: Tuned(**dict(winner)) for method, winner in winners.items()}
    tasks: dict[str, list[TaskTuned]] = {method: [] for method in tuning.spaces}
    for part, winners in parts:
        assert part.task is not None
        for method, winner in winners.items():
            tasks[method].append(TaskTuned.model_validate({**part.task.dimensions, **dict(winner)}))
    return {method: Tuned(tasks=tuple(of_method)) for method, of_method in tasks.items()}


def _tuned_settings(tuning: Tuning, best: Candidate) -> TunedSettings:
    return TunedSettings(
        settings=nested(best.params),
        study=f"{tuning.name}/{best.method}",
        trial=best.number,
        trials=tuning.n_trials(best.method),
        parameters=len(best.params),
        after_startup=best.after_startup,
        trial_seed=tuning.settings.trial_seed,
        seeds=tuple(best.fresh),
        validation=best.mean,
        commits=best.commits,
    )
