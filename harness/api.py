"""For Python: `import harness`, then `harness.results(..)`, `harness.load_student(..)`, ..

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

TASK = ["student", "overlap", "shots"]  # columns of a table: what a student is, and what it learns


def results(
    file: str | PathLike[str],
    *,
    store: str | PathLike[str] = "runs",
    changes: Sequence[str] = (),
    committed: bool = False,
) -> pd.DataFrame:
    """The numbers of an experiment, one row each.

    Args:
        file: the experiment's.
        store: where its trained cells are.
        changes: as behind `--set`: "kd.temperature=2".
        committed: the numbers of experiments/results/ rather than the store's.

    Returns:
        label, method, stage: as the tables and the experiment file say. student: label of the
            network. overlap, shots: of the task, where there are tasks. seed.
        result: which metric; final: whether it is the method's final accuracy.
        accuracy: on the test set, as the protocol reports it; selected, last, best_on_test: in all
            three ways. Fractions; NaN where there is none.
        epochs; seconds of training; cell: its fingerprint; run: its MLflow run, if it has one.

    Raises:
        UserError: a wrong file, a grid that is not finished, or nothing committed.
    """
    import pandas as pd

    from harness.analysis.tables.rows import rows_of
    from harness.common.metrics import SELECTION_RULES

    bundle = _bundle(Path(file), Path(store), list(changes), committed)
    rows = {(r.method, r.stage, r.result): r for r in rows_of(bundle)}
    found = []
    for number in bundle.numbers:
        row = rows.get((number.method, number.stage, number.result))
        if row is None:  # of a stage whose number no table shows
            continue
        found.append(
            {
                "label": row.label,
                **{name: getattr(number, name) for name in ("method", "stage", "student")},
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
    frame = pd.DataFrame(found)
    for name in ("overlap", "shots"):  # else 2 and "all", or None, would be 2.0 and NaN
        frame[name] = pd.Series([row[name] for row in found], dtype=object)
    return frame


def compare(frame: pd.DataFrame, method: str, baseline: str) -> pd.DataFrame:
    """A method's final accuracy minus another's, paired by seed; one row a student and task.

    Args:
        frame: of `results`.
        method, baseline: names as in the experiment file, or "teacher".

    Returns:
        student, overlap, shots; n: seeds that both have; difference: its mean, a fraction; low,
        high: the 95 % t-interval; p: two-sided, of the paired t-test, for this row alone. NaN
        where one seed, or seeds that all differ alike, have no spread.

    Raises:
        UserError: the frame lacks one of the two.
    """
    import pandas as pd

    from harness.analysis.statistics import estimate, has_spread, p_differs

    sides = []
    for name in (method, baseline):
        side = frame[(frame.method == name) & (frame.final | (frame.stage == TEACHER))]
        if side.empty:
            raise UserError(f"no final accuracy of {name!r}{nearest(name, set(frame.method))}")
        keys = ["seed", *TASK]
        if name == TEACHER:  # the same for all students; a published file's for all seeds, too
            keys = ["seed"] if side.cell.nunique() > 1 else []
        sides.append(side[[*keys, "accuracy"]])
    left, right = sides
    on = [key for key in left.columns if key in right.columns and key != "accuracy"]
    how = {"on": on} if on else {"how": "cross"}
    both = left.merge(right, suffixes=("", "_baseline"), **how)
    both["difference"] = both.accuracy - both.accuracy_baseline
    lines, columns = [], [name for name in TASK if name in both]
    for key, group in both.groupby(columns, dropna=False, sort=False):
        values = group.difference.tolist()
        found = estimate(values)
        assert found is not None
        line = {**dict(zip(columns, key, strict=True)), "n": found.n, "difference": found.mean}
        low = high = p = math.nan
        if found.half_width is not None and has_spread(values):
            low, high = found.mean - found.half_width, found.mean + found.half_width
            p = p_differs(values)
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
    """A trained network with its classes and its preprocessing, in eval mode.

    model = harness.load_student("digits", student="wrn-10-1", method=METHOD)
    model(model.preprocess("seven.png")[None]).softmax(1)

    Args:
        source: an experiment's name in experiments/ or its file; a cell's fingerprint, or its first
            digits; the path of a model.pt or of a cell's folder; or models:/NAME@ALIAS of MLflow.
        student, method, seed, overlap, shots: which of an experiment's trainings: what there is
            several of must be said, but the first seed is taken. method may be "teacher".
        store: where its trained cells are.
        changes: to the experiment, as behind `--set`.

    Raises:
        UserError: nothing like it, more than one, not yet trained, or a file that does not say
            what it is of.
    """
    from harness.run.find_model import TrainingFilter, load

    choice = TrainingFilter(student, method, seed, overlap, shots)
    return load(
        Path(source) if isinstance(source, PathLike) else source, choice, Path(store), changes
    )


def _bundle(file: Path, store: Path, changes: list[str], committed: bool) -> Bundle:
    from harness.analysis.bundle import RESULTS, read_bundle, trained
    from harness.experiment.file import read
    from harness.run.grid import plan_of
    from harness.track.registry import resolve_teacher

    experiment = read(file, changes, resolve_teacher)
    if committed:  # for which the data need not be here
        return read_bundle(RESULTS / f"{experiment.name}.jsonl")
    return trained(plan_of(experiment), store, file, changes)
