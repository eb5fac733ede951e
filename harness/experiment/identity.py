"""The identity of an experiment's grid in MLflow."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from harness import methods
from harness.common.canonical_json import canonical

if TYPE_CHECKING:
    from harness.experiment.experiment import ExperimentFields


def grid_identity(experiment: ExperimentFields) -> str:
    """Return a digest of the settings of an experiment without its growing lists.

    It covers only what differs from the defaults, so that a new optional field changes no grid, and
    all sections, so that one more method changes none.
    """

    def changed(value: BaseModel, **options: Any) -> dict[str, Any]:
        return value.model_dump(mode="json", by_alias=True, exclude_defaults=True, **options)

    sections = {s: changed(getattr(experiment, s)) for s in ("optimizer", *methods.SECTIONS)}
    place = {*experiment.dataset.location, "label"}  # data may lie anywhere
    protocol, teacher = experiment.protocol, experiment.teacher
    identity = {
        "name": experiment.name,
        "dataset": changed(experiment.dataset, exclude=place) | {"name": experiment.dataset.name},
        "protocol": {"preset": protocol.preset, **protocol.changed},
        **{name: section for name, section in sections.items() if section},
    }
    if teacher:  # pairs are a list that may grow
        identity["teacher"] = changed(teacher) | {"network": teacher.network}
    if experiment.tasks:  # without the lists that may grow
        identity["tasks"] = changed(experiment.tasks, exclude={"overlap", "shots"})
    for field in ("teacher_checkpoint", "teacher_batch_size"):
        if getattr(experiment, field):
            identity[field] = getattr(experiment, field)
    if experiment.tuned:
        identity["tuned"] = {method: changed(tuned) for method, tuned in experiment.tuned.items()}
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
