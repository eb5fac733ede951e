"""What may stand in an experiment file, with its defaults. `experiment_file` reads it.

`Experiment` is frozen and complete: every default is written out, so that it can be hashed, logged
and printed. Nothing here imports torch.
"""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from harness.data import DatasetOptions
from harness.errors import first_error, nearest
from harness.networks import Options

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[int, Field(ge=1, strict=True)]  # 20.0 would miss its default milestones
Relation = Literal["tuple", "triplet", "one-negative"]
Section = Literal["optimizer", "training", "kd", "stage1", "stage2"]
# What stays the same whatever is tuned: how long everything trains, and what a method is.
FIXED = ("epochs", "milestones", "select_every", "relation")
METHODS = ("plain", "kd", "refilled", *(f"refilled-{r}" for r in typing.get_args(Relation)))


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Optimizer(Frozen):
    """SGD, as in the 2021 release."""

    batch_size: Annotated[int, Field(ge=2)] = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Optimizer:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0; set optimizer.nesterov to false")
        return self


class StepSchedule(Frozen):
    """lr, times gamma at each milestone. Milestones default to 50, 70 and 90 % of the epochs:
    100, 140 and 180 of the release's 200."""

    epochs: Epochs = 200
    lr: Positive = 0.1
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.2

    @model_validator(mode="before")
    @classmethod
    def _default_milestones(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("milestones") is None:
            epochs = values.get("epochs", 200)
            if isinstance(epochs, int) and epochs > 0:
                points = sorted({epochs * p // 100 for p in (50, 70, 90)} - {0})
                return {**values, "milestones": points}
        return values

    @field_validator("milestones")
    @classmethod
    def _increasing(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must increase; sort them and drop doubles")
        epochs = info.data.get("epochs")
        if value and epochs and value[-1] >= epochs:
            raise ValueError(
                f"milestone {value[-1]} is never reached in {epochs} epochs; "
                "lower it, or leave milestones out for 50, 70 and 90 %"
            )
        return value


class Kd(Frozen):
    """Classic distillation on logits (Hinton et al., arXiv 1503.02531; RepDistiller's weights)."""

    temperature: Positive = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9


class Stage1(Frozen):
    """Relation matching: cosine from lr to final_lr_ratio x lr."""

    epochs: Epochs = 200
    lr: Positive = 0.1
    final_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    relation: Relation = "tuple"
    tau1: Annotated[float, Field(ge=0.05)] = 4.0  # the loss leaves float32 below
    margin: Positive = 0.2
    negatives: Literal["all", "smallest"] = "all"
    weight: Positive | None = None  # the relation's own: 1000 for tuples, 500 for the others
    select_every: Epochs = 10


class Stage2(StepSchedule):
    """Classification with the teacher's class centres as soft targets."""

    centers: Literal["global", "local"] = "global"
    tau2: Positive = 2.0
    lambd: NotNegative = 100.0
    tau_on: Literal["both", "teacher"] = "both"
    weighted: bool = False

    @model_validator(mode="after")
    def _local_is_2020_06(self) -> Stage2:
        if self.centers == "local" and (self.weighted or self.tau_on != "both"):
            raise ValueError("centers 'local' (2020-06) has no weighted or tau_on; use 'global'")
        return self


class Protocol(Frozen):
    """Which images train, which choose the epoch, and how centres are taken (docs/protocol.md)."""

    preset: Literal["strict", "legacy"]
    train_on: Literal["train", "train+validation"]
    selection: Literal["validation", "last", "test"]
    ncm_centers: Literal["train", "evaluated"]
    center_images: Literal["plain", "augmented"]

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> Protocol:
        if self.train_on == "train+validation" and self.selection == "validation":
            raise ValueError(
                "selection 'validation' needs held-out images, but train_on is "
                "'train+validation'; use selection 'last'"
            )
        return self

    @property
    def reported(self) -> str:
        """Which of a cell's three accuracies the tables show."""
        return {"validation": "selected", "last": "last", "test": "best_on_test"}[self.selection]

    @property
    def ncm_result(self) -> str:
        """Which of a stage 1's two NCM accuracies the protocol goes by."""
        return {"train": "ncm_train_centers", "evaluated": "ncm_eval_centers"}[self.ncm_centers]

    @property
    def label(self) -> str:
        changed = [
            f"{field}={getattr(self, field)}"
            for field, value in PRESETS[self.preset].items()
            if getattr(self, field) != value
        ]
        return f"{self.preset}({', '.join(changed)})" if changed else self.preset


PRESETS: dict[str, dict[str, str]] = {
    "strict": {
        "train_on": "train",
        "selection": "validation",
        "ncm_centers": "train",
        "center_images": "plain",
    },
    "legacy": {
        "train_on": "train+validation",
        "selection": "test",
        "ncm_centers": "evaluated",
        "center_images": "augmented",
    },
}


class Tuned(Frozen):
    """One method's own settings and, where `harness tune` found them, how.

    settings: section -> field -> value, in place of the experiment's for this method's students.
    study, trial: where they were found; trials: how many were tried.
    seeds, validation: of the re-run that chose this trial, and its mean accuracy there.
    commits: which code trained that re-run.
    """

    settings: dict[Section, dict[str, Any]]
    study: str | None = None
    trial: int | None = None
    trials: int | None = None
    seeds: tuple[int, ...] = ()
    validation: float | None = None
    commits: tuple[str, ...] = ()


class Experiment(Frozen):
    """One experiment file, resolved."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
    description: str = ""
    dataset: SerializeAsAny[DatasetOptions]
    teacher: SerializeAsAny[Options]
    # SHA-256 of a file that `harness import-checkpoint` has read: the teacher is not trained here.
    teacher_checkpoint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    # models:/NAME/VERSION, where `teacher` named one of MLflow's registered models.
    teacher_source: str | None = None
    students: Annotated[tuple[SerializeAsAny[Options], ...], Field(min_length=1)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("plain", "kd", "refilled")
    optimizer: Optimizer = Optimizer()
    training: StepSchedule = StepSchedule.model_validate({})
    kd: Kd = Kd()
    stage1: Stage1 = Stage1()
    stage2: Stage2 = Stage2.model_validate({})
    protocol: Protocol
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0,)
    published: str | None = None
    # method -> its own settings (docs/tuning.md). The teacher keeps the experiment's.
    tuned: dict[str, Tuned] | None = None

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for method in value:
            if method not in METHODS:
                raise ValueError(f"unknown method {method!r}{nearest(method, METHODS)}")
        return _without_doubles(value)

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _without_doubles(value)

    @field_validator("students")
    @classmethod
    def _distinct_students(cls, value: tuple[Options, ...]) -> tuple[Options, ...]:
        _without_doubles([s.label for s in value])
        return value

    @model_serializer(mode="wrap")
    def _without_newer_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was written before there were these fields reads the same."""
        dumped: dict[str, Any] = handler(self)
        for field in ("tuned", "teacher_source"):
            if dumped.get(field, 0) is None:
                del dumped[field]
        return dumped

    def for_method(self, method: str) -> Experiment:
        """The experiment with this method's own settings in place of the common ones.

        Raises:
            ValueError: a setting that its section does not have or allow.
        """
        own = (self.tuned or {}).get(method)
        if own is None:
            return self
        update: dict[str, Any] = {}
        for section, values in own.settings.items():
            if section not in sections_of(method):
                raise ValueError(
                    f"tuned.{method}.settings.{section}: has no effect on {method!r}; use "
                    f"{', '.join(sections_of(method))}"
                )
            if fixed := next((f for f in FIXED if f in values), None):
                raise ValueError(
                    f"tuned.{method}.settings.{section}.{fixed}: the same for every method; set "
                    f"{section}.{fixed} instead"
                )
            common = getattr(self, section)
            try:
                update[section] = common.model_validate({**common.model_dump(), **values})
            except ValidationError as error:
                where = f"tuned.{method}.settings.{section}"
                raise ValueError(first_error(error, type(common), where)) from None
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _tuned_fits(self) -> Experiment:
        for method in self.tuned or {}:
            if method not in self.methods:
                raise ValueError(f"tuned.{method}: not among methods; add it there or drop it here")
            self.for_method(method)
        return self

    @model_validator(mode="after")
    def _one_method_each(self) -> Experiment:
        if "refilled" in self.methods and f"refilled-{self.stage1.relation}" in self.methods:
            raise ValueError(
                f"'refilled' and 'refilled-{self.stage1.relation}' are the same method; drop one"
            )
        return self


def sections_of(method: str) -> tuple[Section, ...]:
    """The sections of an experiment that decide how a method's students are trained."""
    if method == "plain":
        return ("optimizer", "training")
    return ("optimizer", "training", "kd") if method == "kd" else ("optimizer", "stage1", "stage2")


def _without_doubles(value: typing.Any) -> typing.Any:
    for item in value:
        if list(value).count(item) > 1:
            raise ValueError(f"{item!r} stands twice; drop one")
    return value
