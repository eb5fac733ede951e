"""The description of a method. Nothing here imports torch; `Stage.trainer` names what does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from harness.common.metrics import ACCURACY
from harness.methods.mark import Mark
from harness.networks import NetworkOptions

TEACHER = "teacher"  # the name of its stage, of its method and of its network
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[int, Field(ge=1, strict=True)]  # 20.0 would miss its default milestones
# The teacher's outputs for a batch that a method needs.
Needs = Literal["embedding", "logits", "maps"]


Choices = Mapping[str, Mapping[str, tuple[str, ...]]]  # see `Section.choices`


class Frozen(BaseModel):
    """A frozen model that refuses unknown fields and infinite numbers."""

    # A renamed setting, whose alias is its old name, may be written by either (harness.cell).
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True
    )


class Section(Frozen):
    """A section of an experiment file.

    Attributes:
        untunable: fields that no tuning changes: how long everything trains, and what a method is.
        later: fields that came after the first cells: left out of the JSON at their default, so
            that they change no fingerprint.
        choices: field -> its value -> the fields that only this value reads. The others' are left
            out of the JSON, and refused in a file.
    """

    untunable: ClassVar[frozenset[str]] = frozenset()
    later: ClassVar[frozenset[str]] = frozenset()
    choices: ClassVar[Choices] = {}

    @classmethod
    def not_read(cls, values: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Return the fields that have no effect beside these values or, without them, the defaults.

        Returns:
            Field -> the field and the value that would read it.
        """
        return {
            name: (choice, value)
            for choice, readers in cls.choices.items()
            for value, names in readers.items()
            if value != values.get(choice, cls.model_fields[choice].default)
            for name in names
        }

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Return the section with other values; what they leave without effect is dropped.

        Raises:
            ValidationError: an unknown field, an impossible value, or one without effect.
        """
        dropped = self.not_read({**dict(self), **values})
        kept = {name: v for name, v in self.model_dump().items() if name not in dropped}
        return self.model_validate({**kept, **values})

    @model_validator(mode="before")
    @classmethod
    def _every_value_is_read(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, (choice, value) in cls.not_read(values).items():
            chosen = values.get(choice, cls.model_fields[choice].default)
            is_known = chosen is None or chosen in list(cls.choices[choice])
            if is_known and values.get(name) is not None:
                raise ValueError(
                    f"{name} has no effect with {choice} {'null' if chosen is None else chosen}; "
                    f"drop it, or set {choice} to {value}"
                )
        return values

    @model_serializer(mode="wrap")
    def _omit_unread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what has no effect, and later fields that have their default."""
        dumped: dict[str, Any] = handler(self)
        for name in self.not_read(dict(self)):
            dumped.pop(name, None)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                dumped.pop(name, None)
        return dumped

    def check_networks(self, teacher: NetworkOptions, student: NetworkOptions) -> None:
        """Check that the method can compare the outputs of these two networks.

        Raises:
            ValueError: it cannot, with the remedy.
        """

    def remark(self, class_sizes: Sequence[int]) -> str | None:
        """Return a note on a surprising effect of these settings, or None.

        Args:
            class_sizes: the number of training images per class.
        """
        return None


class PairedMaps(Section):
    """The section of a method that compares the maps of teacher and student pair by pair."""

    method: ClassVar[str]

    weight: NotNegative

    def check_networks(self, teacher: NetworkOptions, student: NetworkOptions) -> None:
        """Check that both networks have equally many maps."""
        if None not in (teacher.n_maps, student.n_maps) and teacher.n_maps != student.n_maps:
            can_choose = any(hasattr(network, "maps") for network in (teacher, student))
            choice = "name as many `maps`, " if can_choose else ""
            raise ValueError(
                f"methods: {self.method!r} compares maps pair by pair, but {teacher.label} has "
                f"{teacher.n_maps} and {student.label} {student.n_maps}; use networks of one kind, "
                f"{choice}or drop {self.method!r}"
            )


# What trains every method that adds terms to the cross-entropy.
DISTILLATION = "harness.train.methods.distillation:Distillation"


@dataclass(frozen=True)
class Stage:
    """A training of a method: one cell per student and seed.

    Attributes:
        name: in the table's entries, run names and MLflow.
        kind: of its cells; stages that train alike share the kind, and so the cells.
        schedule: the section with its epochs and learning rate; None if it takes no steps but one
            pass over the training images.
        trainer: "module:class" of the harness.train.methods.base.Training that trains it.
        sections: the other sections of the experiment that its result depends on, besides the
            optimiser.
        switches: the fields of the protocol that its result depends on, besides the training
            images and the choice of the epoch.
        metric: what is measured on the test set: `metrics.ACCURACY`, or `metrics.NCM` (both forms).
        terms: for DISTILLATION: method -> "module:class" of its
            harness.train.methods.distillation.Term.
        task: whose task it is trained and measured on.
        network: whose network it trains. "teacher" is the teacher itself with another last layer,
            "pixels" none at all (harness.networks.pixels); neither depends on the student.
        new_head: whether the last layer is initialised anew.
    """

    name: str
    kind: str
    schedule: str | None
    trainer: str
    sections: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    metric: str = ACCURACY
    terms: Mapping[str, str] = field(default_factory=dict)
    task: Literal["student", "teacher"] = "student"
    network: Literal["student", "teacher", "pixels"] = "student"
    new_head: bool = False

    @property
    def all_sections(self) -> tuple[str, ...]:
        """The sections of the experiment that its result depends on, without the optimiser."""
        return (self.schedule, *self.sections) if self.schedule else self.sections

    @property
    def by_student(self) -> bool:
        """True if its result depends on the student's network."""
        return self.network == "student"


TRAINING = "training"  # the section that says how teachers and most students train

# Cross-entropy alone: every teacher, and the students that learn without a teacher.
SUPERVISED = Stage(
    name="student",
    kind="supervised",
    schedule=TRAINING,
    trainer="harness.train.methods.supervised:Supervised",
)


@dataclass(frozen=True)
class Method:
    """A way to train a student.

    Attributes:
        name: in experiment files, tags and bundles.
        label: in tables and figures; may show settings, as in "ReFilled ({stage1[relation]})".
        about: one line on the method.
        formula: what it minimises.
        paper: its source.
        stages: trained one after the other; each but the first starts from the one before.
        settings: section -> model, for the sections that this method adds.
        implied: section -> field -> value, for the settings that its name stands for; those that
            are given or tuned for this method win.
        overrides: section -> field -> value, for the settings given to it, as in
            "kd(kd.temperature=8)" (harness.methods.variants).
        in_sums: as `implied`, for every sum that it is part of.
        needs: the teacher's outputs that it uses; empty for a method without a teacher.
        shared_classes: whether teacher and student must have the same classes.
        takes_mixed: whether its images may be mixtures of two, as it asks for no image's class
            beside the cross-entropy.
        is_default: whether experiments that name no methods train it.
        variant_of: the method that this one equals if the experiment's own settings equal `implied`
            and `overrides`.
        epochs_factor: multiplies the epochs of its schedule, or BOTH.
        epoch_sources: the sections whose epochs BOTH adds up.
        mark: how figures mark it; None to let them choose.
    """

    name: str
    label: str
    about: str
    formula: str
    paper: str
    stages: tuple[Stage, ...]
    settings: Mapping[str, type[Section]] = field(default_factory=dict)
    implied: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    in_sums: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: frozenset[Needs] = frozenset()
    shared_classes: bool = False
    takes_mixed: bool = True
    is_default: bool = False
    variant_of: str | None = None
    epochs_factor: float | Literal["both"] = 1.0
    epoch_sources: tuple[str, ...] = ()
    mark: Mark | None = None

    @property
    def final(self) -> Stage:
        """The last stage, whose test accuracy is the method's result."""
        return self.stages[-1]

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of an experiment that its students' training depends on."""
        sections = dict.fromkeys(name for stage in self.stages for name in stage.all_sections)
        takes_steps = any(stage.schedule for stage in self.stages)
        return ("optimizer", *sections) if takes_steps else tuple(sections)

    @property
    def is_floor(self) -> bool:
        """True if it needs neither a step nor a teacher: what any NCM accuracy should exceed."""
        return not self.needs and all(stage.schedule is None for stage in self.stages)

    @property
    def is_upper_bound(self) -> bool:
        """True if its network trains on the teacher's task, which no distilled student may do."""
        return any(stage.task == TEACHER for stage in self.stages)

    @property
    def is_addable(self) -> bool:
        """True if it is the cross-entropy plus terms, which `plus` can add up."""
        return len(self.stages) == 1 and bool(self.final.terms)

    def label_in(self, sections: Mapping[str, Any]) -> str:
        """Return its label in tables.

        Args:
            sections: the experiment's sections as plain data; its `labels` take precedence.
        """
        if label := sections.get("labels", {}).get(self.name):
            return str(label)
        return self.label.format(
            **{s: {**sections.get(s, {}), **self.implied.get(s, {})} for s in self.sections}
        )


AT = "@"  # "kd@both", "kd@2.5"
BOTH: Literal["both"] = "both"


def with_epochs(method: Method, epochs: float | Literal["both"], stages: Sequence[Stage]) -> Method:
    """Return the method with other epochs, to compare it at another one's computation.

    Args:
        method: one with a single schedule.
        epochs: a factor; or BOTH, for the epochs of `stages` together.
        stages: those that BOTH refers to.

    Raises:
        ValueError: the method has no single schedule, or the factor is not a useful one.
    """
    text = BOTH if epochs == BOTH else f"{epochs:g}"
    epochs = BOTH if epochs == BOTH else float(text)  # exactly the digits of its name
    if len(method.stages) > 1 or method.final.schedule is None:
        raise ValueError(f"{method.name!r} has no epochs to multiply; leave {AT}{text} out")
    if epochs != BOTH and (not 0 < epochs < 1000 or epochs == 1):
        raise ValueError(f"{text} times the epochs; use another factor, as in {AT}2")
    more = "epochs of both stages" if epochs == BOTH else f"{text} x epochs"
    return replace(
        method,
        name=f"{method.name}{AT}{text}",
        label=f"{method.label}, {more}",
        is_default=False,
        epochs_factor=epochs,
        epoch_sources=tuple(s.schedule for s in stages if s.schedule) if epochs == BOTH else (),
    )


def distillation(
    name: str,
    label: str,
    *,
    about: str,
    formula: str,
    paper: str,
    settings: type[Section],
    needs: Needs,
    trainer: str,
    shared_classes: bool = False,
    takes_mixed: bool = True,
    is_default: bool = False,
    in_sums: Mapping[str, Mapping[str, Any]] | None = None,
    mark: Mark | None = None,
) -> Method:
    """Return a method of one stage that adds one term to the cross-entropy.

    Its section, its stage and its kind of cell have the method's name. The other arguments are the
    attributes of `Method`, except `trainer`: "module:class" of its
    harness.train.methods.distillation.Term.
    """
    stage = Stage(name, name, TRAINING, DISTILLATION, (name,), terms={name: trainer})
    return Method(
        name=name,
        label=label,
        about=about,
        formula=formula,
        paper=paper,
        stages=(stage,),
        settings={name: settings},
        needs=frozenset({needs}),
        shared_classes=shared_classes,
        takes_mixed=takes_mixed,
        is_default=is_default,
        in_sums=in_sums or {},
        mark=mark,
    )


def plus(methods: Sequence[Method]) -> Method:
    """Return the sum of several methods: the cross-entropy once, and all their terms.

    Raises:
        ValueError: a method is listed twice, or is not the cross-entropy plus terms.
    """
    for method in methods:
        if not method.is_addable:
            raise ValueError(
                f"{method.name!r} is not a term beside the cross-entropy; leave it out"
            )
        if methods.count(method) > 1:
            raise ValueError(f"{method.name!r} is listed twice; once is enough")
    name = "+".join(method.name for method in methods)
    terms = {section: term for m in methods for section, term in m.final.terms.items()}
    return Method(
        name=name,
        label=" + ".join(method.label for method in methods),
        about="; ".join(method.about for method in methods),
        formula=f"CE once + the terms of {', '.join(method.name for method in methods)}",
        paper="; ".join(method.paper for method in methods),
        stages=(Stage(name, name, TRAINING, DISTILLATION, tuple(terms), terms=terms),),
        settings={section: model for m in methods for section, model in m.settings.items()},
        implied={section: values for m in methods for section, values in m.in_sums.items()},
        needs=frozenset(need for m in methods for need in m.needs),
        shared_classes=any(method.shared_classes for method in methods),
        takes_mixed=all(method.takes_mixed for method in methods),
    )
