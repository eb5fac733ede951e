"""Several methods' searches at once, none waiting for another's trials.

What a method does next follows from its own trials alone, so its trials are the same whatever the
others do, with any number of jobs, and after a kill.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Generic, TypeVar

from harness.execute.scheduler import Progress, begin
from harness.store import Store
from harness.tune.trials import TrialCells, TrialsFailed, merge_plans

T = TypeVar("T")
# A method's work between trainings. It yields the trials whose cells are to be trained, each to its
# pause or its end, continues when they are, and returns its result.
Steps = Generator[list[TrialCells], Progress, T]

UNFINISHED = ("waiting", "running", "elsewhere")


class Interleaved(Generic[T]):
    """The steps of several methods, taken as their trainings end.

    Attributes:
        results: method -> what its steps returned.
        failures: method -> why it could not continue.
    """

    def __init__(self, steps: Mapping[str, Steps[T]], progress: Progress, store: Store) -> None:
        """Take the steps of each method; `progress` is the scheduler's."""
        self._steps, self._progress, self._store = steps, progress, store
        self._awaited: dict[str, list[str]] = {}
        self._open = [*steps]
        self.results: dict[str, T] = {}
        self.failures: dict[str, TrialsFailed] = {}

    def more(self) -> list[Progress]:
        """Return the cells that methods need next.

        Raises:
            UserError: a checkpoint that a cell would resume, or start from, is broken.
        """
        parts = []
        for method in [m for m in self._open if self._is_ready(m)]:
            steps = self._steps[method]
            try:
                trials = steps.send(self._progress) if method in self._awaited else next(steps)
            except StopIteration as end:
                self._open.remove(method)
                self.results[method] = end.value
            except TrialsFailed as error:  # the other methods go on
                self._open.remove(method)
                self.failures[method] = error
            else:
                part = begin(merge_plans(trials), self._store)
                self._awaited[method] = [*part.plan.cells]
                parts.append(part)
        return parts

    def _is_ready(self, method: str) -> bool:
        """Return whether all cells that the method waits for have ended or paused."""
        awaited = self._awaited.get(method, ())
        return all(self._progress.state[f] not in UNFINISHED for f in awaited)
