"""The `tuned` section of an experiment: settings for one method alone."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.experiment.tasks import ALL, OneNumber, Task
from harness.methods.base import Frozen


class TunedSettings(Frozen):
    """Settings of one method and, if `harness tune` found them, their origin.

    Attributes:
        settings: section -> field -> value, in place of the experiment's, for its students.
        study: the study that found them.
        trial: the number of the trial that found them.
        trials: the number of trials of the study.
        seeds: those of the re-run that chose this trial.
        validation: the mean accuracy of that re-run on the validation split.
        commits: the code that trained that re-run.
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
        """The task that these settings belong to."""
        return Task.from_dimensions({"overlap": self.overlap, "shots": self.shots})


class Tuned(TunedSettings):
    """Settings of one method for all tasks, and for single ones.

    Attributes:
        settings: those of all tasks.
        tasks: those of single tasks, which take precedence.
    """

    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tasks: tuple[TaskTuned, ...] = ()

    @model_serializer(mode="wrap")
    def _omit_empty_tasks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an empty `tasks`, as files written before the field existed do."""
        dumped: dict[str, Any] = handler(self)
        if not self.tasks:
            dumped.pop("tasks", None)
        return dumped

    def settings_for(self, task: Task | None) -> dict[str, dict[str, Any]]:
        """Return section -> field -> value for a task."""
        of_task = next((t.settings for t in self.tasks if t.task == task), {})
        sections = dict.fromkeys([*self.settings, *of_task])
        return {s: {**self.settings.get(s, {}), **of_task.get(s, {})} for s in sections}
