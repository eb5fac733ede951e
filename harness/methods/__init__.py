"""The methods: each module of this package describes some and lists them in METHODS.

To add one: a module here (what it is), a loss in harness/distill, and what trains it in
harness/train/methods: a Term, or a Training. Nothing else names it: experiment files, cells,
tuning, tables, figures, MLflow and docs/methods.md follow from the description. Nothing here
imports torch.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

from harness.common.errors import UserError, nearest
from harness.data.options import as_number
from harness.methods.base import (
    AT,
    BOTH,
    SUPERVISED,
    TRAINING,
    Method,
    Section,
    Stage,
    StepSchedule,
    plus,
    with_epochs,
)
from harness.methods.variants import split, variant

IMPORTED = "imported"  # kind of a cell that is not trained: a teacher from a published file


def _described() -> Iterator[Method]:
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        yield from getattr(importlib.import_module(f"{__name__}.{module}"), "METHODS", ())


def _rank(method: Method) -> tuple[bool, int]:
    """Without a teacher first, of several stages last, as tables have them; else by module."""
    return bool(method.needs), len(method.stages)


def _n_schedules(stages: tuple[Stage, ...]) -> int:
    """Of stages that train a student on its own task."""
    return sum(stage.schedule is not None and stage.task == "student" for stage in stages)


REGISTRY: dict[str, Method] = {method.name: method for method in sorted(_described(), key=_rank)}
STAGES: dict[str, Stage] = {SUPERVISED.kind: SUPERVISED}
for _method in REGISTRY.values():
    for _stage in _method.stages:
        STAGES.setdefault(_stage.kind, _stage)
# Of the method that trains longest: what "kd@both" means by both.
BOTH_STAGES = max((method.stages for method in REGISTRY.values()), key=_n_schedules)
# Section of an experiment file -> its model, `optimizer` aside.
SECTIONS: dict[str, type[Section]] = {TRAINING: StepSchedule} | {
    name: model for method in REGISTRY.values() for name, model in method.settings.items()
}
DEFAULT = tuple(method.name for method in REGISTRY.values() if method.is_default)


@functools.cache
def parse_method(name: str) -> Method:
    """A method of the registry; the sum that a name as "kd+vid" means, in the registry's order; one
    with settings of its own: "kd(kd.temperature=8)"; or one that trains for longer: "kd@2", and
    "kd@both" for as many epochs as both stages have.

    Raises:
        ValueError: there is no such method, or no such sum or setting, or it cannot train for
            longer.
    """
    name, settings = split(name)
    name, at, epochs = name.partition(AT)
    if settings:
        method = variant(parse_method(name), settings)
        return with_epochs(method, _factor(name, epochs), BOTH_STAGES) if at else method
    if at:
        return with_epochs(parse_method(name), _factor(name, epochs), BOTH_STAGES)
    parts = name.split("+")
    for part in parts:
        if part not in REGISTRY:
            raise ValueError(f"unknown method {part!r}{nearest(part, REGISTRY)}")
    if len(parts) == 1:
        return REGISTRY[name]
    try:
        return plus([REGISTRY[part] for part in sorted(parts, key=list(REGISTRY).index)])
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None


def _factor(name: str, epochs: str) -> Any:
    """
    Raises:
        ValueError: neither a number nor BOTH.
    """
    factor = BOTH if epochs == BOTH else as_number(epochs)
    if isinstance(factor, str) and factor != BOTH:
        raise ValueError(f"{epochs!r} is neither a factor nor {BOTH!r}; write {name}{AT}{BOTH}")
    return factor


def get_method(name: str, field: str = "methods") -> Method:
    """The same, of a name that a user wrote.

    Raises:
        UserError: there is no such method, or no such sum.
    """
    try:
        return parse_method(name)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None


def unused_sections(used: Iterable[Method]) -> set[str]:
    """The sections that none of these methods has. `training` is never among them: it also says how
    the teacher is trained."""
    return SECTIONS.keys() - {
        TRAINING,
        *(s for m in used for s in (*m.sections, *m.epoch_sources)),
    }


def stage_of(kind: str) -> Stage:
    """The stage that cells of this kind are trained in.

    Raises:
        UserError: this version has no such kind.
    """
    return STAGES[kind] if kind in STAGES else get_method(kind, "kind of the cell").final


def needs_maps(terms: Iterable[str]) -> bool:
    """Whether one of a stage's terms, named by its method, needs the teacher's feature maps."""
    return any("maps" in REGISTRY[name].needs for name in terms)


def n_epochs(kind: str, spec: dict[str, dict[str, int]]) -> int:
    """Epochs of a cell, from its kind and spec."""
    if kind == IMPORTED:
        return 0
    schedule = stage_of(kind).schedule
    return int(spec[schedule]["epochs"]) if schedule else 1
