"""Several methods' searches at once: none waits for another's trials.

What a method does next follows from its own trials alone, so its trials are the same whatever the
others do, with any number of jobs, and after a kill.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Generic, TypeVar

from harness.execute.scheduler import Progress, begin
from harness.store import Store
from harness.tune.trials import TrialCells, TrialsFailed, together

T = TypeVar("T")
# What somebody does between trainings: yields the trials whose cells are to be trained, each to its
# pause or its end, goes on when they are, and returns what comes of it.
Steps = Generator[list[TrialCells], Progress, T]

AT_WORK = ("waiting", "running", "elsewhere")


class Interleaved(Generic[T]):
    """Takes the steps of several methods as their trainings end; `more` is the scheduler's.

    found: method -> what its steps returned. failed: method -> why it could not go on.
    """

    def __init__(self, steps: Mapping[str, Steps[T]], progress: Progress, store: Store) -> None:
        self._steps, self._progress, self._store = steps, progress, store
        self._awaited: dict[str, list[str]] = {}
        self._open = [*steps]
        self.found: dict[str, T] = {}
        self.failed: dict[str, TrialsFailed] = {}

    def more(self) -> list[Progress]:
        """The cells that methods want trained next.

        Raises:
            UserError: a checkpoint that a cell would go on from, or start from, is broken.
        """
        parts = []
        for method in [m for m in self._open if self._is_over(m)]:
            steps = self._steps[method]
            try:
                trials = steps.send(self._progress) if method in self._awaited else next(steps)
            except StopIteration as end:
                self._open.remove(method)
                self.found[method] = end.value
            except TrialsFailed as error:  # the other methods' trials are worth having
                self._open.remove(method)
                self.failed[method] = error
            else:
                part = begin(together(trials), self._store)
                self._awaited[method] = [*part.plan.cells]
                parts.append(part)
        return parts

    def _is_over(self, method: str) -> bool:
        awaited = self._awaited.get(method, ())
        return all(self._progress.state[f] not in AT_WORK for f in awaited)
