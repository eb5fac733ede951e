"""What a method says about itself. Nothing here imports torch: `Stage.trainer` names what does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from harness.common.metrics import ACCURACY
from harness.networks import NetworkOptions

TEACHER = "teacher"  # what stands for its stage and method, and for a network
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[int, Field(ge=1, strict=True)]  # 20.0 would miss its default milestones
# What a method asks of the teacher's answer to a batch.
Needs = Literal["embedding", "logits", "maps"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Section(Frozen):
    """A section of an experiment file.

    untunable: fields that stay the same whatever is tuned: how long everything trains, and what a
    method is.
    """

    untunable: ClassVar[frozenset[str]] = frozenset()

    def check_networks(self, teacher: NetworkOptions, student: NetworkOptions) -> None:
        """
        Raises:
            ValueError: the method cannot compare what these two networks give; how to go on.
        """

    def remark(self, class_sizes: Sequence[int]) -> str | None:
        """What these settings mean for a training set, where nobody would expect it.

        class_sizes: the number of training images of each class.
        """
        return None


class Schedule(Section):
    """A section that says for how many epochs something trains."""

    untunable: ClassVar[frozenset[str]] = frozenset({"epochs"})

    epochs: Epochs = 200
    lr: Positive = 0.1

    def scaled(self, factor: float) -> Self:
        """With this multiple of the epochs, one at least."""
        return self.model_copy(update={"epochs": max(1, round(self.epochs * factor))})


class StepSchedule(Schedule):
    """lr, times gamma at each milestone. Milestones default to 50, 70 and 90 % of the epochs:
    100, 140 and 180 of the release's 200."""

    untunable: ClassVar[frozenset[str]] = Schedule.untunable | {"milestones"}

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

    def scaled(self, factor: float) -> Self:
        """With this multiple of the epochs, its milestones at the same shares of them."""
        scaled = super().scaled(factor)
        points = {round(m * factor) for m in self.milestones}
        points = {p for p in points if 0 < p < scaled.epochs}
        return scaled.model_copy(update={"milestones": tuple(sorted(points))})

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


class PairedMaps(Section):
    """Of a method that compares the maps of teacher and student pair by pair."""

    method: ClassVar[str]

    weight: NotNegative

    def check_networks(self, teacher: NetworkOptions, student: NetworkOptions) -> None:
        if teacher.n_maps != student.n_maps:
            raise ValueError(
                f"methods: {self.method!r} compares maps pair by pair, but {teacher.label} has "
                f"{teacher.n_maps} and {student.label} {student.n_maps}; use networks of one kind "
                f"or drop {self.method!r}"
            )


# What trains every method that adds terms to the cross-entropy.
DISTILLATION = "harness.train.methods.distillation:Distillation"


@dataclass(frozen=True)
class Stage:
    """One training of a method: one cell a student and seed.

    name: in the table's entries, run names and MLflow.
    kind: of its cells; stages that train alike share it, and so the cells.
    schedule: the section that says how long it trains and at which rate; None where what it fits
        is found at once, in one look at the training images.
    sections: what else of the experiment decides its result, beside the optimiser.
    switches: fields of the protocol that decide its result, beside the images and the epoch.
    metric: what is measured on the test set: `metrics.ACCURACY`, or `metrics.NCM` (both forms).
    trainer: "module:class" of the harness.train.methods.base.Training that trains it.
    terms: of DISTILLATION: method -> "module:class" of its harness.train.methods.distillation.Term.
    task: whose task it is trained and measured on.
    network: whose network it trains. "teacher": the teacher itself with another last layer, and
        "pixels": none at all (harness.networks.pixels), so that its number is the same for every
        student.
    new_head: whether the last layer of what it starts from is drawn anew.
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
        return (self.schedule, *self.sections) if self.schedule else self.sections

    @property
    def by_student(self) -> bool:
        """Whether its number depends on the student's network."""
        return self.network == "student"


TRAINING = "training"  # the section that says how teachers and most students train

# Cross-entropy alone: every teacher, and the students that learn without one.
SUPERVISED = Stage(
    name="student",
    kind="supervised",
    schedule=TRAINING,
    trainer="harness.train.methods.supervised:Supervised",
)


@dataclass(frozen=True)
class Method:
    """One way to train a student.

    name: in experiment files, tags and bundles.
    label: in tables and figures; may show settings, as in "ReFilled ({stage1[relation]})".
    about: one line; formula: of what is minimised; paper: where it comes from.
    stages: trained one after the other; each but the first starts from the one before.
    settings: section -> model, of the sections that this method brings.
    fixed: section -> field -> value of what the name stands for. overrides: settings that were
        given to it, as in "kd(kd.temperature=8)" (harness.methods.variants).
    needs: what it asks of the teacher; nothing for a method without one.
    shared_classes: whether teacher and student must have the same classes.
    is_default: trained where an experiment names no methods.
    variant_of: a method that is the same one where `fixed` and `overrides` equal the experiment's
        settings.
    epochs_factor: how much longer it trains than its sections say: a factor, or BOTH.
    epoch_sources: sections whose epochs that depends on.
    """

    name: str
    label: str
    about: str
    formula: str
    paper: str
    stages: tuple[Stage, ...]
    settings: Mapping[str, type[Section]] = field(default_factory=dict)
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: frozenset[Needs] = frozenset()
    shared_classes: bool = False
    is_default: bool = False
    variant_of: str | None = None
    epochs_factor: float | Literal["both"] = 1.0
    epoch_sources: tuple[str, ...] = ()

    @property
    def final(self) -> Stage:
        """The stage whose test accuracy is the method's result."""
        return self.stages[-1]

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of an experiment that decide how its students are trained."""
        named = [section for stage in self.stages for section in stage.all_sections]
        takes_steps = any(stage.schedule for stage in self.stages)
        return (*(["optimizer"] if takes_steps else []), *dict.fromkeys(named))

    @property
    def is_addable(self) -> bool:
        """Whether it is the cross-entropy and terms beside it, as what `plus` adds."""
        return len(self.stages) == 1 and bool(self.final.terms)

    def label_in(self, sections: Mapping[str, Any]) -> str:
        """What tables call it. sections: the experiment's, as plain data; `labels` go before."""
        if own := sections.get("labels", {}).get(self.name):
            return str(own)
        shown = {s: {**sections.get(s, {}), **self.fixed.get(s, {})} for s in self.sections}
        return self.label.format(**shown)


AT = "@"  # "kd@both", "kd@2.5"
BOTH: Literal["both"] = "both"


def with_epochs(method: Method, epochs: float | Literal["both"], stages: Sequence[Stage]) -> Method:
    """The method, trained for longer: what it can do with as much computation as another one has.

    Args:
        epochs: a multiple of its own; or BOTH, those of `stages` together.

    Raises:
        ValueError: it has no single schedule that could be longer, or the factor changes nothing.
    """
    text = BOTH if epochs == BOTH else f"{epochs:g}"
    epochs = BOTH if epochs == BOTH else float(text)  # what its name says, and no digit more
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
    is_default: bool = False,
) -> Method:
    """A method of one stage that adds one term to the cross-entropy. Its section, its cells and its
    stage are called like the method.

    trainer: "module:class" of its harness.train.methods.distillation.Term.
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
        is_default=is_default,
    )


def plus(methods: Sequence[Method]) -> Method:
    """The sum of methods that add terms to the cross-entropy: all their terms, and the
    cross-entropy once.

    Raises:
        ValueError: one of them stands twice, or trains in another way.
    """
    for method in methods:
        if not method.is_addable:
            raise ValueError(f"{method.name!r} is no term beside the cross-entropy; leave it out")
        if methods.count(method) > 1:
            raise ValueError(f"{method.name!r} stands twice; once is enough")
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
        needs=frozenset(need for m in methods for need in m.needs),
        shared_classes=any(method.shared_classes for method in methods),
    )
