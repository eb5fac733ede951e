"""A study as JSON lines, so that figures and tables need neither the store nor Optuna's storage.

The first line is a `TuningHeader`, each other one a `TrialRecord` or a `CandidateRecord`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from harness.common.canonical_json import canonical
from harness.common.files import write_user_file
from harness.store import Store
from harness.tune.study import Study
from harness.tune.trials import TrialCells
from harness.tune.tuning_file import Direction, Params, Tuning
from harness.tune.winner import Winners

FORMAT = 1
RESULTS = Path("experiments/results/tuning")  # beside the tables' bundles
Key = Annotated[int, Field(strict=False, ge=0, lt=2**32)]  # JSON writes keys as strings


class Record(BaseModel):
    """A line of a bundle. Unknown fields are ignored: a newer version may have written them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    @property
    def line(self) -> str:
        """The record as its bundle has it, without fields that an older version did not write."""
        return canonical(self.model_dump(mode="json", exclude_unset=True))


class EpochCounts(Record):
    """The epochs of one method's trials, without the teacher and the re-run of the best.

    Attributes:
        trained: those that were trained; a cell that trials share counts once.
        alone: those of complete trainings with nothing shared.
    """

    trained: int
    alone: int


class TuningHeader(Record):
    """The tuning that a bundle is about.

    Attributes:
        tuning: version of the format.
        name: of the tuning.
        command: what writes the bundle.
        direction: "maximize" or "minimize".
        metric: what was tuned.
        epochs: method -> cost of its trials.
        studies: method -> everything that its trials depend on.
    """

    tuning: int
    name: str
    command: str = ""
    direction: Direction
    metric: str
    epochs: dict[str, EpochCounts] = Field(default_factory=dict)
    studies: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


class TrialRecord(Record):
    """A trial, as the bundle and MLflow show it.

    Attributes:
        trial: its number in the study.
        method: the method that is tuned.
        state: of Optuna.
        value: at the last epoch, as a fraction; None unless the trial is complete.
        params: field -> value.
        distributions: field -> Optuna's JSON text of the values that were searched.
        curve: epoch -> value on the validation split.
        cells: stage -> fingerprint.
        diverged: whether a loss became infinite.
    """

    trial: int
    method: str
    state: Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    value: float | None
    params: Params
    distributions: dict[str, str]
    curve: dict[Key, float]
    cells: dict[str, str] = Field(default_factory=dict)
    diverged: bool = False


class CandidateRecord(Record):
    """The re-run of one of the best trials.

    Attributes:
        candidate: number of the trial.
        method: the method that is tuned.
        rank: from 1, the winner.
        value: of the trial.
        fresh: seed -> value of its re-run; None if it diverged.
        mean: over the seeds; None if one diverged.
        after_startup: whether TPE sampled the trial; None in older bundles.
    """

    candidate: int
    method: str
    rank: int
    value: float
    fresh: dict[Key, float | None]
    mean: float | None
    after_startup: bool | None = None


def record_of(study: Study, trial: FrozenTrial, cells: TrialCells) -> TrialRecord:
    """Return a stored trial as a record."""
    return TrialRecord(
        trial=trial.number,
        method=study.method,
        state=trial.state.name,  # type: ignore[arg-type]
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=cells.params,
        distributions={field: distribution_to_json(d) for field, d in study.space.items()},
        curve=trial.intermediate_values,
        cells=cells.cells,
        diverged=bool(trial.user_attrs.get("diverged")),
    )


def bundle_path(tuning: Tuning, folder: Path) -> Path:
    """Return the path of the bundle: in STORE/tuning, or RESULTS if it is committed.

    One of several tasks has its bundle in a folder of the tuning; no figures are drawn of it.
    """
    if tuning.task is None:
        return folder / f"{tuning.name}.jsonl"
    return folder / tuning.settings.name / f"{tuning.name}.jsonl"


def write_bundle(
    tuning: Tuning,
    folder: Path,
    studies: dict[str, dict[str, Any]],
    records: Sequence[TrialRecord],
    winners: Winners,
    epochs: dict[str, EpochCounts],
) -> Path:
    """Write the bundle and return its path; the fields of `TuningHeader` say what is what."""
    lines: list[Record] = [
        TuningHeader(
            tuning=FORMAT,
            name=tuning.name,
            command=f"harness tune {tuning.file.as_posix()}",
            direction=tuning.settings.direction,
            metric=tuning.settings.metric,
            epochs=epochs,
            studies=studies,
        )
    ]
    for method in studies:
        lines += [record for record in records if record.method == method]
        lines += [
            CandidateRecord(
                candidate=c.number,
                method=method,
                rank=rank,
                value=c.value,
                fresh=c.fresh,
                mean=c.mean,
                after_startup=c.after_startup,
            )
            for rank, c in enumerate(winners[method], 1)
        ]
    path = bundle_path(tuning, folder)
    text = "".join(line.line + "\n" for line in lines)
    write_user_file(path, text)
    return path


def count_epochs(trials: dict[str, list[TrialCells]], store: Store) -> dict[str, EpochCounts]:
    """Return the cost of each method's trials, from the journals of their cells."""
    result = {}
    for method, all_cells in trials.items():
        students = {fingerprint for cells in all_cells for fingerprint in cells.students}
        trained = sum(
            event["event"] == "epoch" for f in students for event in store.directory(f).events()
        )
        alone = sum(cells.n_epochs(f) for cells in all_cells for f in cells.students)
        result[method] = EpochCounts(trained=trained, alone=alone)
    return result
