"""The pairs of a teacher and a student that are the columns of an experiment.

    pairs:
      - {teacher: {name: resnet56}, student: {name: resnet20}}
      - {teacher: {name: vgg13}, student: {name: MobileNetV2}, settings: {training: {lr: 0.01}}}

With `teacher` and `students`, the one teacher makes a pair with each student.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from harness.common.errors import distinct, first_error
from harness.methods.base import Frozen, Section
from harness.networks import NetworkOptions

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Settings = dict[str, dict[str, Any]]  # section -> field -> value
S = TypeVar("S", bound=Section)
PAIR = ">"  # between the two names of a pair
SIDES = ("teacher", "student")  # fields of a pair


def pair_label(*networks: str) -> str:
    """Return the name of a pair's column, as in published tables: "resnet56>resnet20"."""
    return PAIR.join(networks)


class Pair(Frozen):
    """A teacher and one of its students.

    Attributes:
        settings: section -> field -> value, in place of the experiment's, for the student.
        teacher_checkpoint: SHA-256 of the teacher's file, as `Experiment.teacher_checkpoint`.
    """

    teacher: SerializeAsAny[NetworkOptions]
    student: SerializeAsAny[NetworkOptions]
    settings: Settings = Field(default_factory=dict)
    teacher_checkpoint: Sha256 | None = None

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {name: value for name, value in dumped.items() if value not in (None, {})}

    @property
    def label(self) -> str:
        """The name of its column, as "resnet56>resnet20"."""
        return pair_label(self.teacher.label, self.student.label)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Check that a name in the table stands for one teacher, one student and one column.

    Raises:
        ValueError: it does not, with the remedy.
    """
    distinct([pair.label for pair in pairs])
    teachers: dict[str, tuple[NetworkOptions, str | None]] = {}
    students: dict[str, tuple[NetworkOptions, Settings]] = {}
    for i, pair in enumerate(pairs):
        teacher, student = (pair.teacher, pair.teacher_checkpoint), (pair.student, pair.settings)
        if teachers.setdefault(pair.teacher.label, teacher) != teacher:
            raise ValueError(
                f"{i}.teacher: {pair.teacher.label} is another teacher than in a pair above, but "
                "has one row; give both the same options and teacher_checkpoint"
            )
        if students.setdefault(pair.student.label, student) != student:
            raise ValueError(
                f"{i}.student: {pair.student.label} has other options or settings than in a pair "
                "above, but one row without a teacher; give both the same"
            )


def networks_of(pairs: Iterable[Pair]) -> list[NetworkOptions]:
    """Return the teachers, then the students, each once."""
    pairs = list(pairs)
    return list(dict.fromkeys([p.teacher for p in pairs] + [p.student for p in pairs]))


def replaced(
    section: S, values: Mapping[str, Any], where: str, may_be_untunable: bool = False
) -> S:
    """Return a section with other values in place of its own.

    Args:
        section: the section of an experiment.
        values: field -> value.
        where: the values' place in the file, for messages.
        may_be_untunable: whether fields may change that are the same for every method.

    Raises:
        ValueError: an unknown field, an impossible value, or a field that may not change.
    """
    untunable = next((field for field in values if field in section.untunable), None)
    if untunable and not may_be_untunable:
        name = where.rpartition(".")[2]
        raise ValueError(
            f"{where}.{untunable}: the same for every method and pair; set {name}.{untunable} "
            "instead"
        )
    try:
        return section.with_values(values)
    except ValidationError as error:
        raise ValueError(first_error(error, type(section), where)) from None
