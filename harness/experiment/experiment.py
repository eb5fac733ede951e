"""What may stand in an experiment file, with its defaults. `harness.experiment.file` reads it.

`Experiment` is frozen and complete: every default is written out, so that it can be hashed, logged
and printed. Its sections for single methods come from harness.methods. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from harness import methods
from harness.common.canonical_json import canonical
from harness.common.errors import first_error
from harness.data import DatasetOptions
from harness.experiment.claims import Claim, read_claim
from harness.experiment.protocol import Protocol
from harness.experiment.tasks import Task, Tasks
from harness.experiment.tuned import Tuned
from harness.methods import Method
from harness.methods.base import BOTH, Frozen, NotNegative, Section, StepSchedule
from harness.methods.variants import expand_item, split_settings
from harness.networks import NetworkOptions

# In tables of Markdown and LaTeX, in figures and in MLflow: without what one of them would read.
Label = Annotated[str, Field(pattern=r"^[\w .,:;=+()/%'-]+$", max_length=60)]


class Optimizer(Section):
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


class ExperimentFields(Frozen):
    """What every experiment has, whatever its methods."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
    description: str = ""
    dataset: SerializeAsAny[DatasetOptions]
    tasks: Tasks | None = None
    teacher: SerializeAsAny[NetworkOptions]
    # SHA-256 of a file that `harness import-checkpoint` has read: the teacher is not trained here.
    teacher_checkpoint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    # models:/NAME/VERSION, where `teacher` named one of MLflow's registered models.
    teacher_source: str | None = None
    students: Annotated[tuple[SerializeAsAny[NetworkOptions], ...], Field(min_length=1)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = methods.DEFAULT
    # method -> what it is called in tables, where that is not what it says itself.
    labels: dict[str, Label] = Field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    training: StepSchedule = StepSchedule.model_validate({})
    protocol: Protocol
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0,)
    published: str | None = None
    # What it is meant to show (harness.experiment.claims).
    claims: tuple[str, ...] = ()
    # method -> its own settings (docs/tuning.md). The teacher keeps the experiment's.
    tuned: dict[str, Tuned] | None = None

    @model_validator(mode="before")
    @classmethod
    def _methods_in_full(cls, raw: Any) -> Any:
        """Names in place of mappings and sweeps (harness.methods.variants), and their labels."""
        if not isinstance(raw, dict) or not isinstance(raw.get("methods"), list | tuple):
            return raw
        try:
            found = [pair for item in raw["methods"] for pair in expand_item(item)]
            own = {
                methods.parse_method(name).name: label for name, label in found if label is not None
            }
        except ValueError as error:
            raise ValueError(f"methods: {error}") from None
        given = raw.get("labels") or {}
        labels = {**given, **own} if isinstance(given, dict) else given
        return {**raw, "methods": [name for name, _ in found], "labels": labels}

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _without_doubles(tuple(methods.parse_method(name).name for name in value))

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _without_doubles(value)

    @field_validator("students")
    @classmethod
    def _distinct_students(cls, value: tuple[NetworkOptions, ...]) -> tuple[NetworkOptions, ...]:
        _without_doubles([s.label for s in value])
        return value

    @model_serializer(mode="wrap")
    def _what_is_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the sections of methods it does not use, and without fields that came later and
        are not set: a new method or field leaves what was written before as it was."""
        dumped: dict[str, Any] = handler(self)
        for field in methods.unused_sections(self.resolved_methods):
            dumped.pop(field, None)
        for field in ("tasks", "tuned", "teacher_source", "claims"):
            if dumped.get(field, 0) in (None, (), []):
                del dumped[field]
        if not dumped.get("labels"):
            dumped.pop("labels", None)
        return dumped

    @property
    def resolved_methods(self) -> list[Method]:
        """Its methods, in its order."""
        return [methods.parse_method(name) for name in self.methods]

    @property
    def needs_teacher(self) -> bool:
        return any(method.needs for method in self.resolved_methods)

    def sections(self, names: Iterable[str]) -> dict[str, Any]:
        """These sections as plain JSON data."""
        return {name: getattr(self, name).model_dump(mode="json") for name in names}

    def methods_for_task(self, task: Task | None) -> list[Method]:
        """Its methods that can be trained on a task: without those that need the same classes for
        teacher and student, where these differ."""
        if self.tasks is None or task is None or self.tasks.shares_classes(task):
            return self.resolved_methods
        return [method for method in self.resolved_methods if not method.shared_classes]

    def for_method(self, name: str, task: Task | None = None) -> Self:
        """The experiment with this method's own settings in place of the common ones, and with what
        the method's name stands for.

        Raises:
            ValueError: a setting that its section does not have or allow.
        """
        method = methods.parse_method(name)
        tuned = (self.tuned or {}).get(name) or (self.tuned or {}).get(split_settings(name)[0])
        update: dict[str, Any] = {}
        for where, settings, is_free in (
            (f"tuned.{name}.settings", tuned.of(task) if tuned else {}, True),
            (f"methods: {name}", method.overrides, True),
            (f"methods: {name}", method.fixed, False),
        ):
            for section, values in settings.items():
                if section not in method.sections:
                    raise ValueError(
                        f"{where}.{section}: has no effect on {name!r}; use "
                        f"{', '.join(method.sections)}"
                    )
                common = update.get(section, getattr(self, section))
                fixed = next((f for f in values if f in common.untunable), None)
                if fixed and is_free:
                    raise ValueError(
                        f"{where}.{section}.{fixed}: the same for every method; set "
                        f"{section}.{fixed} instead"
                    )
                try:
                    update[section] = common.model_validate({**common.model_dump(), **values})
                except ValidationError as error:
                    raise ValueError(
                        first_error(error, type(common), f"{where}.{section}")
                    ) from None
        changed = self.model_copy(update=update)
        schedule = method.final.schedule
        if method.epochs_factor == 1 or schedule is None:
            return changed
        own_schedule = getattr(changed, schedule)
        epochs = sum(getattr(self, section).epochs for section in method.epoch_sources)
        factor = (
            epochs / own_schedule.epochs if method.epochs_factor == BOTH else method.epochs_factor
        )
        return changed.model_copy(update={schedule: own_schedule.scaled(factor)})

    @model_validator(mode="after")
    def _tuned_fits(self) -> Self:
        for method in self.tuned or {}:
            if not {method} & {*self.methods, *(split_settings(name)[0] for name in self.methods)}:
                raise ValueError(f"tuned.{method}: not among methods; add it there or drop it here")
            found = [] if self.tuned is None else self.tuned[method].tasks
            for task in (None, *(own.task for own in found)):
                self.for_method(method, task)
            for own in found:
                if self.tasks is None or own.task not in self.tasks.all:
                    raise ValueError(
                        f"tuned.{method}.tasks: no task of this experiment has "
                        f"{', '.join(own.task.words)} (full overlap is `all`); add it to tasks or "
                        "drop it here"
                    )
        return self

    @field_validator("claims", mode="before")
    @classmethod
    def _one_claim(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _claims_can_be_read(self) -> Self:
        _without_doubles([claim.text for claim in self.parsed_claims])
        return self

    @property
    def parsed_claims(self) -> list[Claim]:
        """
        Raises:
            ValueError: one that cannot be read.
        """
        found = []
        for i, text in enumerate(self.claims):
            try:
                found.append(read_claim(text))
            except ValueError as error:
                raise ValueError(f"claims.{i}: {error}") from None
        return found

    @model_validator(mode="after")
    def _classes_are_shared_somewhere(self) -> Self:
        tasks = self.tasks
        if tasks is None or any(tasks.shares_classes(task) for task in tasks.all):
            return self
        for method in self.resolved_methods:
            if method.shared_classes:
                how = "add overlap all or " if tasks.new is None else ""
                raise ValueError(
                    f"methods: {method.name!r} compares logits, so teacher and student need the "
                    f"same classes; {how}drop {method.name!r}"
                )
        return self

    @model_validator(mode="after")
    def _published_have_no_tasks(self) -> Self:
        if self.published and self.tasks:
            raise ValueError("published: the published tables have no tasks; drop it, or tasks")
        return self

    @model_validator(mode="after")
    def _one_method_each(self) -> Self:
        for method in self.resolved_methods:
            changed = [*method.fixed.items(), *method.overrides.items()]
            own = self.for_method(method.name)
            same = all(getattr(own, section) == getattr(self, section) for section, _ in changed)
            if same and method.variant_of in self.methods:
                raise ValueError(
                    f"methods: {method.variant_of!r} and {method.name!r} are the same method; "
                    "drop one"
                )
        return self

    @model_validator(mode="after")
    def _labels_tell_apart(self) -> Self:
        if unknown := next((name for name in self.labels if name not in self.methods), None):
            raise ValueError(f"labels.{unknown}: not among methods; add it there or drop it here")
        sections = {"labels": self.labels, **self.sections(["optimizer", *methods.SECTIONS])}
        shown: dict[str, str] = {}
        for method in self.resolved_methods:
            other = shown.setdefault(method.label_in(sections), method.name)
            if other != method.name:
                raise ValueError(
                    f"labels: {other!r} and {method.name!r} are both called "
                    f"{method.label_in(sections)!r}; give one another label"
                )
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Self:
        for method in self.resolved_methods:
            self.check_networks(method)
        return self

    def check_networks(self, method: Method) -> None:
        """
        Raises:
            ValueError: the method cannot compare what the teacher and a student give.
        """
        for section in method.settings:
            for student in self.students:
                getattr(self, section).check_networks(self.teacher, student)

    @property
    def grid(self) -> str:
        """Identity of the grid in MLflow: the settings, without the lists that may grow. Of what
        differs from the defaults alone, so that a new optional field changes no grid, and of all
        sections, so that a method more changes none."""

        def own(value: BaseModel, **options: Any) -> dict[str, Any]:
            return value.model_dump(mode="json", exclude_defaults=True, **options)

        sections = {s: own(getattr(self, s)) for s in ("optimizer", *methods.SECTIONS)}
        place = {*self.dataset.location, "label"}  # data may lie anywhere
        identity = {
            "name": self.name,
            "dataset": own(self.dataset, exclude=place) | {"name": self.dataset.name},
            "teacher": own(self.teacher) | {"network": self.teacher.network},
            "protocol": {"preset": self.protocol.preset, **self.protocol.changed},
            **{name: section for name, section in sections.items() if section},
        }
        if self.tasks:  # without the lists that may grow
            identity["tasks"] = own(self.tasks, exclude={"overlap", "shots"})
        if self.teacher_checkpoint:
            identity["teacher_checkpoint"] = self.teacher_checkpoint
        if self.tuned:
            identity["tuned"] = {method: own(tuned) for method, tuned in self.tuned.items()}
        return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


if TYPE_CHECKING:

    class Experiment(ExperimentFields):
        """One experiment file, resolved."""

else:
    Experiment = create_model(
        "Experiment",
        __base__=ExperimentFields,
        __doc__="One experiment file, resolved: the common fields and a section a setting.",
        __module__=__name__,
        **{
            name: (model, model.model_validate({}))
            for name, model in methods.SECTIONS.items()
            if name not in ExperimentFields.model_fields
        },
    )


def _without_doubles(value: Any) -> Any:
    for item in value:
        if list(value).count(item) > 1:
            raise ValueError(f"{item!r} stands twice; drop one")
    return value
