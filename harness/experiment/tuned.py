"""The `tuned` section of an experiment: settings for one method alone."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.experiment.tasks import ALL, OneNumber, Task
from harness.methods.base import Frozen

ADDED_LATER = ("tasks", "parameters", "after_startup", "trial_seed")


class TunedSettings(Frozen):
    """Settings of one method and, if `harness tune` found them, their origin.

    Attributes:
        settings: section -> field -> value, in place of the experiment's, for its students.
        study: the study that found them.
        trial: the number of the trial that found them.
        trials: the number of trials of the study.
        parameters: the number of parameters that the study tuned.
        after_startup: whether the trial came after the random ones.
        trial_seed: the seed that the study's trials trained with.
        seeds: those of the re-run that chose this trial.
        validation: the mean accuracy of that re-run on the validation split.
        commits: the code that trained that re-run.
    """

    settings: dict[str, dict[str, Any]]
    study: str | None = None
    trial: int | None = None
    trials: int | None = None
    parameters: int | None = None
    after_startup: bool | None = None
    trial_seed: int | None = None
    seeds: tuple[int, ...] = ()
    validation: float | None = None
    commits: tuple[str, ...] = ()

    @property
    def tuning_seeds(self) -> set[int]:
        """The seeds whose trainings chose these settings, as far as they are recorded."""
        return {*self.seeds, *([] if self.trial_seed is None else [self.trial_seed])}

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out empty fields that were added later, as files written before do."""
        dumped: dict[str, Any] = handler(self)
        return {k: v for k, v in dumped.items() if k not in ADDED_LATER or v not in (None, (), [])}


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

    @property
    def tuning_seeds(self) -> set[int]:
        """The seeds whose trainings chose the settings of any task."""
        return super().tuning_seeds.union(*(task.tuning_seeds for task in self.tasks))

    def settings_for(self, task: Task | None) -> dict[str, dict[str, Any]]:
        """Return section -> field -> value for a task."""
        of_task = next((t.settings for t in self.tasks if t.task == task), {})
        sections = dict.fromkeys([*self.settings, *of_task])
        return {s: {**self.settings.get(s, {}), **of_task.get(s, {})} for s in sections}
