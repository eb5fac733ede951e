"""Functions for Python: `import harness`, then `harness.results(..)`, `harness.load_student(..)`.

frame = harness.results("experiments/digits.yaml")
frame[frame.final].groupby(["label", "shots"]).accuracy.agg(["mean", "count"])
harness.compare(frame, METHOD, BASELINE)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UserError, nearest
from harness.methods.base import TEACHER

if TYPE_CHECKING:
    import pandas as pd

    from harness.analysis.bundle import Bundle
    from harness.trained.model import TrainedModel

# Columns: the pair or the student, and the task that it learns.
TASK = ["teacher", "student", "overlap", "shots"]


def results(
    file: str | PathLike[str],
    *,
    store: str | PathLike[str] = "runs",
    changes: Sequence[str] = (),
    committed: bool = False,
) -> pd.DataFrame:
    """Return the numbers of an experiment, one row per number.

    Args:
        file: The experiment file.
        store: The folder of its trained cells.
        changes: Changes to the experiment, as for `--set`: "kd.temperature=2".
        committed: Whether to read the numbers of experiments/results/ rather than the store's.

    Returns:
        A frame with the columns
        label, method, stage: As in the tables and in the experiment file.
        student: The label of the network; teacher: that of a pair's, in experiments with pairs.
        overlap, shots: Those of the task, if there are tasks.
        seed: The seed.
        result: The metric; final: whether it is the method's final accuracy.
        accuracy: On the test set, as the protocol reports it; a fraction.
        selected, last, best_on_test: The same by each of the selection rules; NaN if there is none.
        epochs, seconds: Those of training.
        cell: The cell's fingerprint; run: its MLflow run, if it has one.

    Raises:
        UserError: The file is wrong, the grid is not finished, or no numbers are committed.
    """
    import pandas as pd

    from harness.analysis.tables.rows import rows_of
    from harness.common.metrics import SELECTION_RULES

    bundle = _bundle(Path(file), Path(store), list(changes), committed)
    rows = {(r.method, r.stage, r.result): r for r in rows_of(bundle)}
    records, with_pairs = [], any(number.teacher for number in bundle.numbers)
    for number in bundle.numbers:
        row = rows.get((number.method, number.stage, number.result))
        if row is None:  # no table shows this stage's number
            continue
        records.append(
            {
                "label": row.label,
                **{name: getattr(number, name) for name in ("method", "stage")},
                **({"teacher": number.teacher} if with_pairs else {}),
                "student": number.student,
                **(number.task.dimensions if number.task else {"overlap": None, "shots": None}),
                "seed": number.seed,
                "result": number.result,
                "final": row.is_final,
                "accuracy": number.accuracy(bundle.reported),
                **{rule: number.accuracy(rule) for rule in SELECTION_RULES},
                "epochs": number.cell.manifest.epochs,
                "seconds": number.cell.manifest.seconds,
                "cell": number.cell.fingerprint,
                "run": number.cell.mlflow_run_id,
            }
        )
    frame = pd.DataFrame(records)
    for name in ("overlap", "shots"):  # otherwise 2 would become 2.0, and None NaN
        frame[name] = pd.Series([row[name] for row in records], dtype=object)
    return frame


def compare(frame: pd.DataFrame, method: str, baseline: str) -> pd.DataFrame:
    """Compare the final accuracies of two methods, paired by seed.

    Args:
        frame: The numbers, as `results` returns them.
        method: The method's name as in the experiment file, or "teacher".
        baseline: The name of the method to compare it with.

    Returns:
        A frame with one row per student and task, and the columns
        teacher, student, overlap, shots: As in `frame`.
        n: The number of seeds that both methods have.
        difference: The mean of method minus baseline, a fraction.
        low, high: The 95 % t-interval of the mean.
        p: The two-sided p-value of the paired t-test, not corrected for several rows. Like the
            interval, it is NaN if there is one seed, or if all differences are equal.

    Raises:
        UserError: The frame lacks one of the two methods.
    """
    import pandas as pd

    from harness.analysis.statistics import sample_mean

    sides = []
    for name in (method, baseline):
        side = frame[(frame.method == name) & (frame.final | (frame.stage == TEACHER))]
        if side.empty:
            raise UserError(f"no final accuracy of {name!r}{nearest(name, set(frame.method))}")
        pair = ["teacher"] if "teacher" in side and side.teacher.notna().all() else []
        keys = ["seed", *pair, *TASK[1:]]
        if name == TEACHER:  # shared by all students and, if it is a published file, by all seeds
            keys = ["seed", *pair] if pair or side.cell.nunique() > 1 else []
        sides.append(side[[*keys, "accuracy"]])
    left, right = sides
    on = [key for key in left.columns if key in right.columns and key != "accuracy"]
    how = {"on": on} if on else {"how": "cross"}
    both = left.merge(right, suffixes=("", "_baseline"), **how)
    both["difference"] = both.accuracy - both.accuracy_baseline
    lines, columns = [], [name for name in TASK if name in both]
    for key, group in both.groupby(columns, dropna=False, sort=False):
        mean = sample_mean(group.difference.tolist())
        line = {**dict(zip(columns, key, strict=True)), "n": mean.n, "difference": mean.mean}
        low = high = p = math.nan
        half_width = mean.interval().half_width
        if mean.has_spread and half_width is not None:
            low, high = mean.mean - half_width, mean.mean + half_width
            p = mean.p_differs
        lines.append({**line, "low": low, "high": high, "p": p})
    return pd.DataFrame(lines)


def load_student(
    source: str | PathLike[str],
    *,
    student: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    overlap: int | str | None = None,
    shots: int | str | None = None,
    store: str | PathLike[str] = "runs",
    changes: Sequence[str] = (),
) -> TrainedModel:
    """Load a trained network with its classes and its preprocessing, in eval mode.

    model = harness.load_student("digits", student="wrn-10-1", method=METHOD)
    model(model.preprocess("seven.png")[None]).softmax(1)

    Args:
        source: The name of an experiment in experiments/, or its file; a cell's fingerprint, or its
            first digits; the path of a model.pt or of a cell's folder; or models:/NAME@ALIAS of
            MLflow's registry.
        student: Of an experiment, the label of the network; may be left out if there is only one,
            as may the following.
        method: The method, or "teacher".
        seed: The seed; by default the first.
        overlap: The overlap of the task.
        shots: The shots of the task.
        store: The folder of the trained cells.
        changes: Changes to the experiment, as for `--set`.

    Raises:
        UserError: There is no such network, or more than one; it is not trained yet; or its file
            does not describe it.
    """
    from harness.run.find_model import TrainingFilter, load

    choice = TrainingFilter(student, method, seed, overlap, shots)
    return load(
        Path(source) if isinstance(source, PathLike) else source, choice, Path(store), changes
    )


def _bundle(file: Path, store: Path, changes: list[str], committed: bool) -> Bundle:
    from harness.analysis.bundle import RESULTS, read_bundle
    from harness.analysis.export import trained
    from harness.experiment.file import read
    from harness.run.grid import plan_of
    from harness.track.registry import resolve_teacher

    experiment = read(file, changes, resolve_teacher)
    if committed:  # reading them needs no data
        return read_bundle(RESULTS / f"{experiment.name}.jsonl")
    return trained(plan_of(experiment), store, file, changes)
