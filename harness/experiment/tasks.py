"""The `tasks` section of an experiment, and the classes and images that follow from it.

The classes of the data set are put into an order. The teacher's task is its first n classes; a
student's task is the n classes at positions [n - overlap, 2 n - overlap), which share `overlap` of
them. So does the 2022 release (arXiv 2205.01915), whose k is n - overlap. Nothing here imports
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from harness.common.errors import UserError, distinct, nearest
from harness.data import Dataset
from harness.data.views import View, lack_of_images
from harness.methods.base import Frozen

ALL = "all"
Order = Literal["labels", "random"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class Task:
    """The task of one student: the dimensions of an experiment's table.

    Attributes:
        overlap: the number of its classes that it shares with the teacher; None for all.
        shots: training images per class; None for all. In an incremental task, this counts for the
            teacher's classes.
    """

    overlap: int | None = None
    shots: int | None = None

    @property
    def dimensions(self) -> dict[str, int | str]:
        """The dimensions as plain data: a number each, or "all"."""
        return {
            "overlap": ALL if self.overlap is None else self.overlap,
            "shots": ALL if self.shots is None else self.shots,
        }

    @property
    def words(self) -> list[str]:
        """The dimensions as text: "overlap 2", "shots all"."""
        return [f"{name} {value}" for name, value in self.dimensions.items()]

    @staticmethod
    def from_dimensions(dimensions: dict[str, int | str]) -> Task:
        """Return the task with these `dimensions`."""
        values = (dimensions.get(name, ALL) for name in ("overlap", "shots"))
        return Task(*(None if isinstance(value, str) else value for value in values))


def _number(value: Any) -> int | str:
    if value != ALL and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"neither a number nor {ALL!r}; write one of them")
    return value


def _numbers(value: Any) -> tuple[int | str, ...]:
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    for item in items:
        _number(item)
    if not items:
        raise ValueError(f"the list is empty; give a number, or {ALL!r}")
    return distinct(items)


OneNumber = Annotated[int | str, BeforeValidator(_number)]
# A list of them, or one.
Numbers = Annotated[tuple[int | str, ...], BeforeValidator(_numbers)]


class Tasks(Frozen):
    """The tasks of an experiment: one for each overlap and each number of shots.

    Attributes:
        classes: n, the number of classes in each task; None for all classes of the data set.
        new: the student learns the teacher's classes and this many more (one-step incremental).
            Then `shots` counts for the teacher's classes and may be 0; the student has all images
            of the new classes.
        overlap: the number of classes that teacher and student share: numbers, or "all".
        shots: the student's training images per class: numbers, or "all". The teacher has all
            images of its classes; validation and test are never reduced.
        order: the order of the classes: "labels", as in the data set; "random", by `order_seed`; or
            a list of names or numbers, also from a YAML file beside the experiment's.
        order_seed: the seed of a random order.
        shots_seed: the seed that draws the shots; None gives each seed of the experiment its own
            draw, so that the intervals of a table include the luck of the draw.
    """

    classes: Annotated[int, Field(strict=True)] | None = None
    new: Annotated[int, Field(strict=True)] | None = None  # above the fields whose checks read it
    overlap: Numbers = (ALL,)
    shots: Numbers = (ALL,)
    order: Order | tuple[int | str, ...] = "labels"
    order_seed: Seed = 0
    shots_seed: Seed | None = None

    @field_validator("classes")
    @classmethod
    def _at_least_two_classes(cls, value: int | None) -> int | None:
        if value is not None and value < 2:
            raise ValueError("a task needs 2 classes or more to tell apart")
        return value

    @field_validator("new")
    @classmethod
    def _new_needs_classes(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None:
            return None
        if value < 1:
            raise ValueError(
                "an incremental task has 1 new class or more; drop `new` for a task without"
            )
        if info.data.get("classes") is None:
            raise ValueError("new beside how many old ones? add `classes`, their number")
        return value

    @field_validator("overlap")
    @classmethod
    def _overlap_fits(cls, value: tuple[int | str, ...], info: ValidationInfo) -> Any:
        classes = info.data.get("classes")
        if info.data.get("new") is not None and value != (ALL,):
            raise ValueError("a student of `new` classes knows all old ones; drop it, or `new`")
        for overlap in value:
            if isinstance(overlap, str):
                continue
            if classes is None:
                raise ValueError(f"{overlap} of how many? add `classes`, the number of each task")
            if overlap > classes:
                raise ValueError(f"{overlap} of {classes} classes; use 0 to {classes}")
        return value

    @field_validator("shots")
    @classmethod
    def _shots_leave_images(cls, value: tuple[int | str, ...], info: ValidationInfo) -> Any:
        if 0 in value and info.data.get("new") is None:
            raise ValueError("0 leaves no training images; use 1 or more")
        return value

    @field_validator("order", mode="before")
    @classmethod
    def _order_is_valid(cls, value: Any) -> Any:
        """Check the order here, as the error of a union would name each of its members."""
        entries = value if isinstance(value, list | tuple) else ()
        wrong = [e for e in entries if isinstance(e, bool) or not isinstance(e, int | str)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is neither the name nor the number of a class")
        if not entries and value not in get_args(Order):
            raise ValueError(
                "neither labels, random, a list of classes (names or numbers) nor a YAML file "
                "with one (`order: [...]`)"
            )
        distinct(entries)
        return value

    @property
    def all(self) -> list[Task]:
        """The tasks, ordered by overlap, then by shots."""
        pairs = product(self.overlap, self.shots)
        tasks = [
            Task.from_dimensions(
                {"overlap": ALL if overlap == self.classes else overlap, "shots": shots}
            )
            for overlap, shots in pairs
        ]
        return list(dict.fromkeys(tasks))

    def only(self, task: Task) -> Tasks:
        """Return the section with this task alone."""
        return self.model_copy(update={k: (v,) for k, v in task.dimensions.items()})

    def shares_classes(self, task: Task) -> bool:
        """Return whether teacher and student have exactly the same classes."""
        return self.new is None and task.overlap is None


class TaskViews:
    """The classes and images that teacher and students see; all of them if `tasks` is None."""

    def __init__(self, tasks: Tasks | None, dataset: Dataset) -> None:
        """Check that the data set has the classes and images.

        Args:
            tasks: those of the experiment.
            dataset: the whole data set.

        Raises:
            UserError: the data set lacks the classes or the images.
        """
        self.tasks = tasks or Tasks()
        self._n_all = len(dataset.class_names)
        order = class_order(self.tasks, dataset.class_names)
        n = self.n_classes = len(order) if self.tasks.classes is None else self.tasks.classes
        self._order = order
        whose = f"{dataset.name}'s {self._n_all} classes"
        if len(order) < self._n_all:
            whose = f"the {len(order)} classes of tasks.order"
        if n > len(order):
            raise UserError(f"tasks.classes: {n}, but there are {whose}; use {len(order)} or fewer")
        if self.tasks.new is not None and n + self.tasks.new > len(order):
            raise UserError(
                f"tasks.new: {n} old and {self.tasks.new} new classes are more than {whose}; "
                f"use {len(order) - n} or fewer"
                if n < len(order)
                else f"tasks.new: {n} old classes are all of {whose}; use fewer `classes`"
            )
        if tasks is None:
            return
        for task in tasks.all:
            least = n - (len(order) - n)
            if task.overlap is not None and task.overlap < least:
                raise UserError(
                    f"tasks.overlap: two tasks of {n} classes that share {task.overlap} need "
                    f"{2 * n - task.overlap}, more than {whose}; use {least} to {n}"
                )
            view = self.student(task, 0)
            if lacking := lack_of_images(dataset.class_names, dataset.train.labels, view):
                raise UserError(f"tasks.shots: {lacking}")

    def teacher(self) -> View:
        """Return the teacher's view."""
        return self._view(self._order[: self.n_classes])

    def student(self, task: Task | None, seed: int) -> View:
        """Return the view of a student on a task, in the cell with this seed."""
        if task is None:
            return View()
        n, tasks = self.n_classes, self.tasks
        shots_seed = 0
        if task.shots:
            shots_seed = seed if tasks.shots_seed is None else tasks.shots_seed
        if tasks.new is not None:
            return View(
                classes=tuple(self._order[: n + tasks.new]),
                shots=task.shots,
                shots_seed=shots_seed,
                old=tuple(self._order[:n]),
            )
        first = 0 if task.overlap is None else n - task.overlap
        classes = self._view(self._order[first : first + n]).classes
        return View(classes=classes, shots=task.shots, shots_seed=shots_seed)

    def _view(self, classes: Sequence[int]) -> View:
        everything = list(classes) == list(range(self._n_all))
        return View(classes=None if everything else tuple(classes))


def class_order(tasks: Tasks, names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes in the order of the tasks.

    Raises:
        UserError: the order names an unknown class, or one twice.
    """
    if tasks.order == "labels":
        return list(range(len(names)))
    if tasks.order == "random":
        # RandomState, as NumPy guarantees its stream.
        return np.random.RandomState(tasks.order_seed).permutation(len(names)).tolist()
    numbers = []
    for entry in tasks.order:
        if isinstance(entry, str):
            if entry not in names:
                raise UserError(f"tasks.order: unknown class {entry!r}{nearest(entry, names)}")
            numbers.append(list(names).index(entry))
        elif not 0 <= entry < len(names):
            raise UserError(f"tasks.order: there is no class {entry}; use 0 to {len(names) - 1}")
        else:
            numbers.append(entry)
    for number in numbers:
        if numbers.count(number) > 1:  # by its name and by its number
            raise UserError(f"tasks.order: {names[number]!r} is listed twice; drop one")
    return numbers
