"""The `tuned` section of an experiment: settings that a method has to itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.experiment.tasks import ALL, OneNumber, Task
from harness.methods.base import Frozen


class TunedSettings(Frozen):
    """One method's own settings and, where `harness tune` found them, how.

    settings: section -> field -> value, in place of the experiment's for this method's students.
    study, trial: where they were found; trials: how many were tried.
    seeds, validation: of the re-run that chose this trial, and its mean accuracy there.
    commits: which code trained that re-run.
    """

    settings: dict[str, dict[str, Any]]
    study: str | None = None
    trial: int | None = None
    trials: int | None = None
    seeds: tuple[int, ...] = ()
    validation: float | None = None
    commits: tuple[str, ...] = ()


class TaskTuned(TunedSettings):
    """The settings for the task with this overlap and these shots (harness.experiment.tasks)."""

    overlap: OneNumber = ALL
    shots: OneNumber = ALL

    @property
    def task(self) -> Task:
        return Task.from_dimensions({"overlap": self.overlap, "shots": self.shots})


class Tuned(TunedSettings):
    """tasks: where each task has settings of its own; they go before the common `settings`."""

    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tasks: tuple[TaskTuned, ...] = ()

    @model_serializer(mode="wrap")
    def _without_tasks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Where it has none: what was written before there were any stays as it was."""
        dumped: dict[str, Any] = handler(self)
        if not self.tasks:
            dumped.pop("tasks", None)
        return dumped

    def of(self, task: Task | None) -> dict[str, dict[str, Any]]:
        """Section -> field -> value for a task."""
        own = next((t.settings for t in self.tasks if t.task == task), {})
        sections = dict.fromkeys([*self.settings, *own])
        return {s: {**self.settings.get(s, {}), **own.get(s, {})} for s in sections}
