"""The fields of an experiment file, with their defaults; `harness.experiment.file` reads it.

`Experiment` is frozen and complete: every default is written out, so that it can be hashed, logged
and printed. Its sections for single methods come from harness.methods. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from harness import methods
from harness.common.errors import distinct
from harness.data import DatasetOptions
from harness.experiment.claims import Claim, parse_claim
from harness.experiment.identity import grid_identity
from harness.experiment.optimizer import BatchSize, Optimizer
from harness.experiment.pairs import Pair, Sha256, check_pairs, networks_of, replaced
from harness.experiment.protocol import Protocol
from harness.experiment.releases import differences
from harness.experiment.tasks import Task, Tasks
from harness.experiment.tuned import Tuned
from harness.methods import Method
from harness.methods.base import BOTH, Frozen
from harness.methods.schedules import TrainingSettings
from harness.methods.variants import expand_item, split_settings
from harness.networks import NetworkOptions

# Stands in Markdown and LaTeX tables, figures and MLflow: no character that one of them interprets.
Label = Annotated[str, Field(pattern=r"^[\w .,:;=+()/%'-]+$", max_length=60)]
# Fields added later: left out while empty, so that a new field changes nothing written before.
ADDED_LATER = (
    *("tasks", "tuned", "teacher_source", "claims", "secondary_claims"),
    *("teacher_batch_size", "paper_table", "pairs"),
    *("teacher", "students"),  # empty beside pairs
)


class ExperimentFields(Frozen):
    """The fields that every experiment has, whatever its methods."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
    description: str = ""
    dataset: SerializeAsAny[DatasetOptions]
    tasks: Tasks | None = None
    # Either one teacher with all students, or pairs.
    teacher: SerializeAsAny[NetworkOptions] | None = None
    # SHA-256 of a file from `harness import-checkpoint`: the teacher is not trained here.
    teacher_checkpoint: Sha256 | None = None
    # models:/NAME/VERSION, if `teacher` named one of MLflow's registered models.
    teacher_source: str | None = None
    students: tuple[SerializeAsAny[NetworkOptions], ...] = ()
    pairs: tuple[Pair, ...] = ()
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = methods.DEFAULT
    # Method -> label in tables, in place of the method's own.
    labels: dict[str, Label] = Field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    # The teacher's own batch size, as in the release of 2022; None for that of the optimiser.
    teacher_batch_size: BatchSize | None = None
    training: TrainingSettings = TrainingSettings.model_validate({})
    protocol: Protocol
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0,)
    published: str | None = None
    # Published numbers of other data, whose table the summary has the form of.
    paper_table: str | None = None
    # Statements to test (harness.experiment.claims); the primary ones are corrected together.
    claims: tuple[str, ...] = ()
    secondary_claims: tuple[str, ...] = ()
    # Method -> its own settings (docs/tuning.md). The teacher keeps the experiment's.
    tuned: dict[str, Tuned] | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand_methods(cls, raw: Any) -> Any:
        """Replace mappings and sweeps by names, keeping their labels (harness.methods.variants)."""
        if not isinstance(raw, dict) or not isinstance(raw.get("methods"), list | tuple):
            return raw
        try:
            items = [pair for item in raw["methods"] for pair in expand_item(item)]
            new = {methods.parse_method(n).name: label for n, label in items if label is not None}
        except ValueError as error:
            raise ValueError(f"methods: {error}") from None
        labels = raw.get("labels") or {}
        labels = {**labels, **new} if isinstance(labels, dict) else labels
        return {**raw, "methods": [name for name, _ in items], "labels": labels}

    @field_validator("methods")
    @classmethod
    def _canonical_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(tuple(methods.parse_method(name).name for name in value))

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return distinct(value)

    @field_validator("students")
    @classmethod
    def _distinct_students(cls, value: tuple[NetworkOptions, ...]) -> tuple[NetworkOptions, ...]:
        distinct([s.label for s in value])
        return value

    @field_validator("pairs")
    @classmethod
    def _distinct_pairs(cls, value: tuple[Pair, ...]) -> tuple[Pair, ...]:
        check_pairs(value)
        return value

    @field_validator("claims", "secondary_claims", mode="before")
    @classmethod
    def _claims_as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the sections of other methods, and empty fields that were added later.

        So a new method or field changes nothing that was written before.
        """
        dumped: dict[str, Any] = handler(self)
        for section in methods.unused_sections(self.resolved_methods):
            dumped.pop(section, None)
        for field in ADDED_LATER:
            if dumped.get(field) in (None, (), []):
                dumped.pop(field, None)
        if not dumped.get("labels"):
            dumped.pop("labels", None)
        return dumped

    @property
    def resolved_methods(self) -> list[Method]:
        """The descriptions of its methods, in its order."""
        return [methods.parse_method(name) for name in self.methods]

    @property
    def all_pairs(self) -> tuple[Pair, ...]:
        """The pairs, or the one teacher with each student."""
        if self.teacher is None:
            return self.pairs
        teacher, checkpoint = self.teacher, self.teacher_checkpoint
        return tuple(
            Pair(teacher=teacher, student=student, teacher_checkpoint=checkpoint)
            for student in self.students
        )

    @property
    def networks(self) -> list[NetworkOptions]:
        """The networks of all teachers and students, each once."""
        return networks_of(self.all_pairs)

    @property
    def needs_teacher(self) -> bool:
        """True if one of its methods uses the teacher."""
        return any(method.needs for method in self.resolved_methods)

    @property
    def protocol_label(self) -> str:
        """The preset with everything that differs from it, as in "strict(selection=last)"."""
        changed = {**self.protocol.changed, **differences(self)}
        texts = [f"{f}={list(v) if isinstance(v, tuple) else v}" for f, v in changed.items()]
        return f"{self.protocol.preset}({', '.join(texts)})" if texts else self.protocol.preset

    @property
    def parsed_claims(self) -> list[Claim]:
        """The primary and the secondary claims, parsed.

        Raises:
            ValueError: one of them is malformed.
        """
        claims = []
        for field in ("claims", "secondary_claims"):
            for i, text in enumerate(getattr(self, field)):
                try:
                    claims.append(parse_claim(text))
                except ValueError as error:
                    raise ValueError(f"{field}.{i}: {error}") from None
        return claims

    def sections(self, names: Iterable[str]) -> dict[str, Any]:
        """Return these sections as plain JSON data."""
        return {name: getattr(self, name).model_dump(mode="json") for name in names}

    def methods_for_task(self, task: Task | None) -> list[Method]:
        """Return the methods that can be trained on a task.

        Methods that need the teacher's classes are left out where the student has others.
        """
        if self.tasks is None or task is None or self.tasks.shares_classes(task):
            return self.resolved_methods
        return [method for method in self.resolved_methods if not method.shared_classes]

    def for_method(self, name: str, task: Task | None = None, pair: Pair | None = None) -> Self:
        """Return the experiment with one method's settings in place of the common ones.

        Later ones win: those of the pair, those that the method's name stands for, tuned settings,
        those given to the method. The method's factor of the epochs is applied last.

        Raises:
            ValueError: a setting that the method does not read, or may not have.
        """
        method = methods.parse_method(name)
        tuned = (self.tuned or {}).get(name) or (self.tuned or {}).get(split_settings(name)[0])
        of_pair = {s: v for s, v in pair.settings.items() if s in method.sections} if pair else {}
        changed: dict[str, Any] = {}
        for where, settings, may_be_untunable in (
            (f"pairs: {pair.label if pair else ''}", of_pair, False),
            (f"methods: {name}", method.implied, True),
            (f"tuned.{name}.settings", tuned.settings_for(task) if tuned else {}, False),
            (f"methods: {name}", method.overrides, False),
        ):
            for section, values in settings.items():
                if section not in method.sections:
                    raise ValueError(
                        f"{where}.{section}: has no effect on {name!r}; use "
                        f"{', '.join(method.sections)}"
                    )
                old = changed.get(section, getattr(self, section))
                changed[section] = replaced(old, values, f"{where}.{section}", may_be_untunable)
        schedule = method.final.schedule
        if schedule and method.epochs_factor != 1:
            old = changed.get(schedule, getattr(self, schedule))
            factor = method.epochs_factor
            if factor == BOTH:
                factor = sum(getattr(self, s).epochs for s in method.epoch_sources) / old.epochs
            changed[schedule] = old.scaled(factor)
        mixing = changed.get(methods.TRAINING, self.training).mixing
        if mixing and not method.takes_mixed:
            raise ValueError(
                f"training.{mixing[0]}: {name!r} needs one class per image; drop the method, or "
                f"give it {', '.join(f'training.{field}: 0' for field in mixing)}"
            )
        return self.model_copy(update=changed)

    @model_validator(mode="after")
    def _tuned_settings_fit(self) -> Self:
        for name, tuned in (self.tuned or {}).items():
            if name not in {*self.methods, *(split_settings(method)[0] for method in self.methods)}:
                raise ValueError(f"tuned.{name}: not among methods; add it there or drop it here")
            if used := sorted(tuned.tuning_seeds & {*self.seeds}):
                raise ValueError(
                    f"seeds: {', '.join(map(str, used))} tuned {name!r} (tuned.{name}), so no "
                    "result may come from them; choose others"
                )
            for task in (None, *(settings.task for settings in tuned.tasks)):
                self.for_method(name, task)
                if task and (self.tasks is None or task not in self.tasks.all):
                    raise ValueError(
                        f"tuned.{name}.tasks: no task of this experiment has "
                        f"{', '.join(task.words)} (full overlap is `all`); add it to tasks or "
                        "drop it here"
                    )
        return self

    @model_validator(mode="after")
    def _claims_are_valid(self) -> Self:
        distinct([claim.text for claim in self.parsed_claims])
        return self

    @model_validator(mode="after")
    def _some_task_shares_classes(self) -> Self:
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
    def _published_excludes_tasks(self) -> Self:
        if self.published and self.tasks:
            raise ValueError("published: the published tables have no tasks; drop it, or tasks")
        if self.paper_table and self.tasks and len(self.tasks.all) > 1:
            raise ValueError(
                "paper_table: it has one column per student; give tasks one overlap and one number "
                "of shots"
            )
        return self

    @model_validator(mode="after")
    def _variants_differ(self) -> Self:
        for method in self.resolved_methods:
            own = self.for_method(method.name)
            if method.variant_of not in self.methods:
                continue
            other = self.for_method(method.variant_of)
            if all(getattr(own, s) == getattr(other, s) for s in method.sections):
                raise ValueError(
                    f"methods: {method.variant_of!r} and {method.name!r} are the same method; "
                    "drop one"
                )
        return self

    @model_validator(mode="after")
    def _early_stopping_needs_held_out_images(self) -> Self:
        for section in methods.SECTIONS:
            if getattr(getattr(self, section), "early_stopping", None) is None:
                continue
            if self.protocol.train_on == "train+validation":
                raise ValueError(
                    f"{section}.early_stopping: needs held-out images, but protocol.train_on is "
                    "'train+validation'; use train_on 'train', or drop early_stopping"
                )
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if unknown := next((name for name in self.labels if name not in self.methods), None):
            raise ValueError(f"labels.{unknown}: not among methods; add it there or drop it here")
        sections = {"labels": self.labels, **self.sections(["optimizer", *methods.SECTIONS])}
        names: dict[str, str] = {}
        for method in self.resolved_methods:
            label = method.label_in(sections)
            other = names.setdefault(label, method.name)
            if other != method.name:
                raise ValueError(
                    f"labels: {other!r} and {method.name!r} are both called {label!r}; give one "
                    "another label"
                )
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Self:
        for method in self.resolved_methods:
            self.check_networks(method, {})
        return self

    @model_validator(mode="after")
    def _pairs_settings_fit(self) -> Self:
        used = [section for method in self.resolved_methods for section in method.sections]
        for i, pair in enumerate(self.pairs):
            if unused := next((section for section in pair.settings if section not in used), None):
                raise ValueError(
                    f"pairs.{i}.settings.{unused}: no method of this experiment reads it; use "
                    f"{', '.join(dict.fromkeys(used))}"
                )
            for method in self.methods if pair.settings else ():
                self.for_method(method, pair=pair)
        return self

    def check_networks(
        self, method: Method, known: Mapping[NetworkOptions, NetworkOptions]
    ) -> None:
        """Check that the method can compare each teacher with its students.

        Args:
            method: The method.
            known: Built networks, by the experiment's own; those not built yet pass.

        Raises:
            ValueError: it cannot, with the remedy.
        """
        for pair in self.all_pairs:
            networks = [known.get(network, network) for network in (pair.teacher, pair.student)]
            for network in networks if "maps" in method.needs else ():
                if network.n_maps == 0:
                    raise ValueError(
                        f"methods: {method.name!r} compares maps, but {network.label} has none at "
                        f"several resolutions; name some in its `maps`, or drop {method.name!r}"
                    )
            for section in method.settings:
                getattr(self, section).check_networks(*networks)

    @property
    def grid(self) -> str:
        """The identity of the grid in MLflow (`harness.experiment.identity`)."""
        return grid_identity(self)


if TYPE_CHECKING:

    class Experiment(ExperimentFields):
        """The experiment of a file, resolved."""

else:
    Experiment = create_model(
        "Experiment",
        __base__=ExperimentFields,
        __doc__="The experiment of a file, resolved: the common fields and the methods' sections.",
        __module__=__name__,
        **{
            name: (model, model.model_validate({}))
            for name, model in methods.SECTIONS.items()
            if name not in ExperimentFields.model_fields
        },
    )
