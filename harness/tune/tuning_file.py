"""A tuning file: its fields, and one-line errors. Imports neither torch nor Optuna."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from harness import methods
from harness.common.canonical_json import flatten
from harness.common.errors import UserError, first_error, nearest
from harness.common.metrics import ACCURACY, metric_name
from harness.experiment.experiment import Experiment
from harness.experiment.file import apply_overrides, read, read_yaml
from harness.experiment.protocol import PRESETS, Protocol
from harness.experiment.tasks import Task
from harness.experiment.tuned import Tuned
from harness.methods.base import Frozen
from harness.track.registry import resolve_teacher
from harness.tune.space import Choices, Range, Scalar, Space, as_field, read_values, tunable

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
        methods: method -> field -> values to try.
        untuned: methods that the tuned file has, too, with the experiment's own settings.
        metric: what is tuned.
        direction: "maximize" or "minimize".
        trials: number of trials of each method.
        batch: number of trials that are asked, compared and awaited together. It decides which
            trials there are; the number of jobs does not.
        seed: of the sampler. The trials train with the experiment's first seed.
        startup_trials: number of random trials before TPE.
        pruning: None to train every trial to its end.
        top_k: number of the best trials that are trained again.
        fresh_seeds: the seeds of these trainings.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
    description: str = ""
    experiment: str
    set: dict[str, Any] = Field(default_factory=dict)
    methods: Annotated[dict[str, Space], Field(min_length=1)]
    untuned: tuple[str, ...] = ()
    metric: str = METRICS[0]
    direction: Direction = "maximize"
    trials: Annotated[int, Field(ge=1)] = 30
    batch: Annotated[int, Field(ge=1)] = 6
    seed: Seed = 0
    startup_trials: Annotated[int, Field(ge=1)] = 10
    pruning: Pruning | None = Pruning()
    top_k: Annotated[int, Field(ge=1)] = 3
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

    @model_validator(mode="after")
    def _whole_batches(self) -> TuningFile:
        if self.trials % self.batch:
            near = max(self.batch, round(self.trials / self.batch) * self.batch)
            raise ValueError(
                f"trials: {self.trials} is no multiple of batch {self.batch}; use {near}"
            )
        if self.top_k > self.trials:
            raise ValueError(f"top_k: {self.top_k} of {self.trials} trials; lower it")
        return self


@dataclass(frozen=True)
class Tuning:
    """A tuning file, resolved.

    Attributes:
        file: its path.
        settings: its fields.
        base: the experiment that trials change: one student, the first seed, the strict protocol
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
    written = read_yaml(file, "experiment", EXAMPLE)
    tuning = Tuning(path, settings, base, _spaces(settings, base), file, written)
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
    if len(experiment.students) > 1:
        raise UserError(
            f"set.students: {file} has {len(experiment.students)} students; name the one to tune "
            "on, as in `set: {students: [{depth: 10, width: 1}]}`"
        )
    seed = experiment.seeds[0]
    if seed in settings.fresh_seeds:
        raise UserError(f"fresh_seeds: the trials train with seed {seed}; choose other ones")
    every = {"selection": "last", "evaluate_every": experiment.protocol.evaluate_every}
    strict = {"preset": "strict", **PRESETS["strict"], **every}
    protocol = Protocol.model_validate(strict)
    return experiment.model_copy(update={"protocol": protocol, "seeds": (seed,)})


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
        if not space:
            raise UserError(f"methods.{method}: empty search space; name a field and its values")
        try:
            base.check_networks(description)
        except ValueError as error:
            raise UserError(error) from None
        spaces[method] = {f: read_values(base, method, f, space[f]) for f in sorted(space)}
    return spaces
