"""The methods: each module of this package describes some and lists them in METHODS.

`base` says what a description consists of, `mark` how figures mark a method, `schedules` which
epochs and learning rates a training has, and `variants` how a method with settings of its own is
named.

To add one, write a module here (what it is), a loss in harness/distill, and its trainer in
harness/train/methods: a Term or a Training. Nothing else names it: experiment files, cells,
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
    plus,
    with_epochs,
)
from harness.methods.schedules import TrainingSettings
from harness.methods.variants import split_settings, with_settings

IMPORTED = "imported"  # kind of a cell that is not trained: a teacher from a published file


def _described() -> Iterator[Method]:
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        yield from getattr(importlib.import_module(f"{__name__}.{module}"), "METHODS", ())


def _rank(method: Method) -> tuple[bool, int]:
    """Return the sort key of the tables: teacher-free methods first, several stages last."""
    return bool(method.needs), len(method.stages)


def _n_schedules(stages: tuple[Stage, ...]) -> int:
    """Count the stages that train a student on its own task."""
    return sum(stage.schedule is not None and stage.task == "student" for stage in stages)


REGISTRY: dict[str, Method] = {method.name: method for method in sorted(_described(), key=_rank)}
STAGES: dict[str, Stage] = {SUPERVISED.kind: SUPERVISED}
for _method in REGISTRY.values():
    for _stage in _method.stages:
        STAGES.setdefault(_stage.kind, _stage)
# The stages of the method that trains longest: what "both" means in "kd@both".
BOTH_STAGES = max((method.stages for method in REGISTRY.values()), key=_n_schedules)
# Section of an experiment file -> its model, except `optimizer`.
SECTIONS: dict[str, type[Section]] = {TRAINING: TrainingSettings} | {
    name: model for method in REGISTRY.values() for name, model in method.settings.items()
}
DEFAULT = tuple(method.name for method in REGISTRY.values() if method.is_default)


@functools.cache
def parse_method(name: str) -> Method:
    """Return the method that a name describes.

    That is one of the registry; a sum such as "kd+vid", whose terms are put into the registry's
    order; one with settings of its own, "kd(kd.temperature=8)"; or one with other epochs: "kd@2",
    or "kd@both" for the epochs of both stages.

    Raises:
        ValueError: no such method, sum or setting, or its epochs cannot be changed.
    """
    name, settings = split_settings(name)
    name, at, epochs = name.partition(AT)
    if settings or at:
        method = parse_method(name)
        if settings:
            method = with_settings(method, settings)
        return with_epochs(method, _epochs_factor(name, epochs), BOTH_STAGES) if at else method
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


def _epochs_factor(name: str, text: str) -> Any:
    """Return the factor after the @ of a name, or BOTH.

    Raises:
        ValueError: it is neither a number nor BOTH.
    """
    factor = as_number(text)
    if isinstance(factor, str) and factor != BOTH:
        raise ValueError(f"{text!r} is neither a factor nor {BOTH!r}; write {name}{AT}{BOTH}")
    return factor


def get_method(name: str, field: str = "methods") -> Method:
    """Return the method that a user named in `field`, as `parse_method`.

    Raises:
        UserError: no such method.
    """
    try:
        return parse_method(name)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None


def unused_sections(methods: Iterable[Method]) -> set[str]:
    """Return the sections that none of these methods reads.

    `training` is never among them, as it also says how the teacher is trained.
    """
    return SECTIONS.keys() - {
        TRAINING,
        *(s for m in methods for s in (*m.sections, *m.epoch_sources)),
    }


def stage_of(kind: str) -> Stage:
    """Return the stage that cells of this kind are trained in.

    Raises:
        UserError: this version has no such kind.
    """
    return STAGES[kind] if kind in STAGES else get_method(kind, "kind of the cell").final


def needs_maps(terms: Iterable[str]) -> bool:
    """Return whether one of a stage's terms, named by its method, needs the teacher's maps."""
    return any("maps" in REGISTRY[name].needs for name in terms)
