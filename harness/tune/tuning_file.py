"""A tuning file: its fields, and one-line errors. Imports neither torch nor Optuna."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from harness import methods
from harness.common.canonical_json import flatten
from harness.common.errors import UserError, first_error, nearest
from harness.common.metrics import ACCURACY, metric_name
from harness.experiment.experiment import Experiment
from harness.experiment.file import read
from harness.experiment.protocol import PRESETS, Protocol
from harness.experiment.sources import apply_overrides, read_raw, read_yaml
from harness.experiment.tasks import Task
from harness.experiment.tuned import Tuned
from harness.methods.base import Frozen
from harness.track.registry import resolve_teacher
from harness.tune.space import (
    Choices,
    Range,
    Scalar,
    Space,
    as_field,
    common_fields,
    read_values,
    tunable,
)

# The metrics that every trial's last cell measures on the validation split.
METRICS = (metric_name("validation", ACCURACY),)
EXAMPLE = "experiments/tuning/digits.yaml"
Direction = Literal["maximize", "minimize"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Params = dict[str, Scalar]


class Pruning(Frozen):
    """Successive halving inside a batch.

    Attributes:
        rungs: shares of the last cell's epochs at which the batch's trials are compared.
        keep: the share of the trials that continues, rounded up.
    """

    rungs: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (
        0.25,
        0.5,
    )
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must increase; sort them and drop doubles")
        return value


class TuningFile(Frozen):
    """A tuning file as it is written.

    Attributes:
        name: of the studies and of the tuned file.
        description: shown in MLflow and in Optuna's dashboard.
        experiment: path of the experiment file, relative to this file.
        set: fields of it that the trials change (one student, fewer epochs); the tuned file does
            not get them.
        common: field -> values to try, for every method of `methods` that has the field; `lr` is
            the learning rate of each of its schedules. The method's own values take precedence.
        methods: method -> field -> values to try.
        untuned: methods that the tuned file has, too, with the experiment's own settings.
        metric: what is tuned.
        direction: "maximize" or "minimize".
        trials: number of trials of each method, or None.
        trials_per_parameter: number of trials of each method per parameter that it tunes, in place
            of `trials`, or None.
        batch: number of trials that are asked, compared and awaited together. It decides which
            trials there are; the number of jobs does not.
        seed: of the samplers; each study derives its own from this one and its name.
        startup_trials: number of trials that must have ended before TPE replaces random sampling.
        pruning: None to train every trial to its end.
        top_k: number of the best trials that are trained again.
        trial_seed: the seed that the trials train with. The experiment must not report it.
        fresh_seeds: the seeds of these trainings. The experiment must not report them.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
    description: str = ""
    experiment: str
    set: dict[str, Any] = Field(default_factory=dict)
    common: Space = Field(default_factory=dict)
    methods: Annotated[dict[str, Space], Field(min_length=1)]
    untuned: tuple[str, ...] = ()
    metric: str = METRICS[0]
    direction: Direction = "maximize"
    trials: Annotated[int, Field(ge=1)] | None = None
    trials_per_parameter: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] = 6
    seed: Seed = 0
    startup_trials: Annotated[int, Field(ge=1)] = 10
    pruning: Pruning | None = Pruning()
    top_k: Annotated[int, Field(ge=1)] = 3
    trial_seed: Seed = 1000
    fresh_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (101, 102, 103)

    @field_validator("metric")
    @classmethod
    def _on_validation(cls, value: str) -> str:
        if value in METRICS:
            return value
        if value.startswith(metric_name("test", "")):
            raise ValueError(
                f"{value!r} is measured on the test set, which tuning must not see; use "
                f"{METRICS[0]!r}"
            )
        raise ValueError(f"no metric of the validation split{nearest(value, METRICS)}")

    @field_validator("fresh_seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a seed occurs twice; drop one")
        return value

    @property
    def n_random(self) -> int:
        """The number of random trials: TPE begins with the batch after `startup_trials` ended."""
        return math.ceil(self.startup_trials / self.batch) * self.batch

    def n_trials(self, n_parameters: int) -> int:
        """Return the number of trials of a method that tunes this many parameters.

        `trials_per_parameter` is rounded up to whole batches, of which at least one is TPE's.
        """
        if self.trials_per_parameter is None:
            assert self.trials is not None, "one of the two is given"
            return self.trials
        least = max(n_parameters * self.trials_per_parameter, self.n_random + 1)
        return math.ceil(least / self.batch) * self.batch

    def check_budget(self) -> None:
        """Check the numbers of trials; call it after the values to try, which users write first.

        Raises:
            UserError: They do not fit together.
        """
        if (self.trials is None) == (self.trials_per_parameter is None):
            raise UserError(
                "trials: give either `trials` (per method) or `trials_per_parameter`, and not both"
            )
        if self.trials is not None and self.trials % self.batch:
            near = max(self.batch, round(self.trials / self.batch) * self.batch)
            raise UserError(
                f"trials: {self.trials} is no multiple of batch {self.batch}; use {near}"
            )
        fewest = self.n_trials(1)
        if self.n_random >= fewest:
            raise UserError(
                f"startup_trials: the first {self.n_random} of {fewest} trials would be random "
                f"(whole batches of {self.batch}); lower it, or raise trials"
            )
        if self.top_k > fewest:
            raise UserError(f"top_k: {self.top_k} of {fewest} trials; lower it")


@dataclass(frozen=True)
class Tuning:
    """A tuning file, resolved.

    Attributes:
        file: its path.
        settings: its fields.
        base: the experiment that trials change: one student, the trial seed, the strict protocol
            with the last epoch (which the tuned file reports), nothing tuned yet.
        spaces: method -> field -> values, sorted by field.
        experiment_file: path of the experiment that is tuned.
        raw: its fields as written, for the tuned file.
        task: the one that this part tunes (`parts`); None for all, or if the experiment has none.
    """

    file: Path
    settings: TuningFile
    base: Experiment
    spaces: dict[str, dict[str, Range | Choices]]
    experiment_file: Path
    raw: dict[str, Any]
    task: Task | None = None

    @property
    def name(self) -> str:
        """The name of its studies, with the dimensions of the part's task."""
        words = [] if self.task is None else self.task.words
        return "-".join([self.settings.name, *(w.replace(" ", "-") for w in words)])

    @property
    def parts(self) -> list[Tuning]:
        """The tunings of the tasks, each with the methods that can be trained; itself without."""
        tasks = self.base.tasks
        if tasks is None:
            return [self]
        return [
            replace(
                self,
                task=task,
                base=self.base.model_copy(update={"tasks": tasks.only(task)}),
                spaces={
                    name: space
                    for name, space in self.spaces.items()
                    if tasks.shares_classes(task) or not methods.get_method(name).shared_classes
                },
            )
            for task in tasks.all
        ]

    def n_trials(self, method: str) -> int:
        """Return the number of trials of a method."""
        return self.settings.n_trials(len(self.spaces[method]))

    def trial(
        self, method: str, params: Params, seeds: tuple[int, ...] | None = None
    ) -> Experiment:
        """Return the ordinary experiment that a trial trains.

        Raises:
            UserError: a section does not allow a value.
        """
        try:
            tuned = {method: Tuned(settings=nested(params))}
            update = {"methods": (method,), "seeds": seeds or self.base.seeds, "tuned": tuned}
            experiment = self.base.model_copy(update=update)
            experiment.for_method(method)
        except ValueError as error:
            text = str(error).replace(f"tuned.{method}.settings.", "")
            raise UserError(f"methods.{method}.{text}") from None
        return experiment


def nested(params: Params) -> dict[Any, dict[str, Scalar]]:
    """Return section -> field -> value: {"stage1.tau1": 4} becomes {"stage1": {"tau1": 4}}."""
    result: dict[Any, dict[str, Scalar]] = {}
    for path, value in params.items():
        section, _, field = path.partition(".")
        result.setdefault(section, {})[field] = value
    return result


def read_tuning(path: Path, assignments: list[str] | None = None) -> Tuning:
    """Read a tuning file, with `--set` assignments, and the experiment that it names.

    Raises:
        UserError: one line naming the field and the remedy.
    """
    raw = apply_overrides(read_yaml(path, "tuning", EXAMPLE), assignments or [])
    if "dataset" in raw and "experiment" not in raw:
        raise UserError(f"{path}: an experiment, no tuning file; use `harness run {path}`")
    for key in raw:
        if key not in TuningFile.model_fields:
            raise UserError(f"{key}: unknown key{nearest(str(key), TuningFile.model_fields)}")
    try:
        settings = TuningFile.model_validate(raw)
    except ValidationError as error:
        raise UserError(first_error(error, TuningFile)) from None
    file = Path(os.path.normpath(path.parent / settings.experiment))
    changes = [f"{k}={json.dumps(v)}" for k, v in flatten(settings.set).items()]
    also = [*settings.methods, *(methods.get_method(m, "untuned").name for m in settings.untuned)]
    base = _base(read(file, changes, resolve_teacher, also=also), settings, file)
    written, spaces = read_raw(file, resolve=False), _spaces(settings, base)
    settings.check_budget()
    tuning = Tuning(path, settings, base, spaces, file, written)
    for method, space in tuning.spaces.items():  # every end of every range, one at a time
        for field, values in space.items():
            for end in values.ends:
                tuning.trial(method, {field: as_field(base, field, end)})
    return tuning


def _base(experiment: Experiment, settings: TuningFile, file: Path) -> Experiment:
    if experiment.teacher_checkpoint:
        raise UserError(
            f"experiment: {file} takes its teacher from a published file, which may have seen the "
            "validation images; tune with a teacher that is trained here"
        )
    if experiment.tuned:
        raise UserError(f"experiment: {file} is tuned already; name the file it came from")
    if len(experiment.pairs) > 1:
        raise UserError(
            f"set.pairs: {file} has {len(experiment.pairs)} pairs; name the one to tune on, as in "
            "`set: {pairs: [{teacher: {...}, student: {...}}]}`"
        )
    if len(experiment.students) > 1:
        raise UserError(
            f"set.students: {file} has {len(experiment.students)} students; name the one to tune "
            "on, as in `set: {students: [{depth: 10, width: 1}]}`"
        )
    if settings.trial_seed in settings.fresh_seeds:
        raise UserError(f"fresh_seeds: seed {settings.trial_seed} is trial_seed; choose other ones")
    used = [
        ("trial_seed", settings.trial_seed),
        *(("fresh_seeds", s) for s in settings.fresh_seeds),
    ]
    for field, seed in used:
        if seed in experiment.seeds:
            raise UserError(
                f"{field}: {file} reports seed {seed}, which must not have tuned it; choose another"
            )
    every = {"selection": "last", "evaluate_every": experiment.protocol.evaluate_every}
    strict = {"preset": "strict", **PRESETS["strict"], **every}
    protocol = Protocol.model_validate(strict)
    return experiment.model_copy(update={"protocol": protocol, "seeds": (settings.trial_seed,)})


def _spaces(settings: TuningFile, base: Experiment) -> dict[str, dict[str, Range | Choices]]:
    for name in settings.untuned:
        if methods.get_method(name, "untuned").name in settings.methods:
            raise UserError(f"untuned: {name!r} is among methods, too; drop one")
    spaces: dict[str, dict[str, Range | Choices]] = {}
    for name, space in settings.methods.items():
        description = methods.get_method(name)
        method = description.name  # a sum is in the registry's order
        if method in spaces:
            raise UserError(f"methods.{name}: {method!r} stands twice; drop one")
        if not tunable(base, method):
            raise UserError(f"methods.{method}: has no field to tune; name it under `untuned`")
        shared = {
            field: values
            for name, values in settings.common.items()
            for field in common_fields(name, description)
        }
        if not {**shared, **space}:
            raise UserError(f"methods.{method}: empty search space; name a field and its values")
        try:
            base.check_networks(description, {})
        except ValueError as error:
            raise UserError(error) from None
        spaces[method] = {
            field: read_values(base, method, field, space[field], f"methods.{method}")
            if field in space
            else read_values(base, method, field, shared[field], "common")
            for field in sorted({**shared, **space})
        }
    for name in settings.common:
        if not any(common_fields(name, methods.get_method(method)) for method in spaces):
            sections = sorted({s for m in spaces for s in methods.get_method(m).sections})
            raise UserError(
                f"common.{name}: no tuned method has it; use `lr`, or a field of "
                f"{', '.join(sections)}"
            )
    return spaces
