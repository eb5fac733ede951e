"""Finished cells -> a bundle (plain JSON lines, no weights) -> rows of numbers.

A bundle is all a table or a figure needs: it can be committed, sent and checked without a database,
the weights or the data. Its first line is the resolved experiment; then one line a cell.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.bundle_fields import parse_lines, task_of
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.metrics import EVALUATION_SECONDS
from harness.common.redaction import without_password
from harness.experiment.file import network_labels
from harness.experiment.published import read_published
from harness.experiment.tasks import Tasks
from harness.plan import TEACHER, Plan
from harness.store import CellDir, Store
from harness.store.predictions import read_predictions_file
from harness.track import sync_state
from harness.track.environment import tracking_uri

if TYPE_CHECKING:
    import pandas as pd

# Still 1 with curves and confusions: who does not know them can read the rest as before.
FORMAT = 1
# What figures show of an epoch; MLflow has the rest.
CURVES = ("loss/total", "train/", "validation/", "test/")
# More names than this would not fit on a figure.
MOST_NAMES = 30

Curves = dict[str, list[float | None]]
Confusion = list[list[int]]
Number = dict[str, Any]  # a row of a bundle's numbers, by column


@dataclass(frozen=True)
class Bundle:
    """experiment: the resolved file. rows: one a (stage, method, student, seed, result),
    with last, selected and best_on_test as fractions, and what leads to its run. With tasks, also
    one a task: `overlap` and `shots` are numbers or "all", to group by, `task` is both together;
    None without tasks, and of what is trained on the teacher's.

    By fingerprint, and empty in a bundle that was written before there were any:
    curves: metric -> its value after each epoch, None where the epoch has none.
    confusions: [class, predicted class, number of test images] of the reported weights, without
        zeros; None of a cell without predictions.
    class_names: None if they are too many to be shown, or not the same in all tasks; a class is its
        number then.
    """

    path: Path
    experiment: dict[str, Any]
    command: str
    reported: str
    protocol: str
    published: list[dict[str, str]]
    rows: list[Number]
    curves: dict[str, Curves]
    confusions: dict[str, Confusion | None]
    class_names: list[str] | None

    @property
    def teacher(self) -> str:
        """Label of the teacher's network."""
        return str(next(row["student"] for row in self.rows if row["stage"] == TEACHER))

    @property
    def cells(self) -> list[Number]:
        """The first row of each cell, for what its rows share."""
        return first_of_each(self.rows)

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The rows, for who works with pandas; tables need not import it."""
        import pandas as pd

        numbers = pd.DataFrame(self.rows)
        for name in ("overlap", "shots", "task"):  # else 2 and None would be 2.0 and NaN
            numbers[name] = pd.Series([row[name] for row in self.rows], dtype=object)
        return numbers

    def by(self, *columns: str) -> dict[tuple[Any, ...], list[Number]]:
        """The rows, grouped by their values in these columns; made once."""
        if columns not in self._groups:
            groups: dict[tuple[Any, ...], list[Number]] = {}
            for row in self.rows:
                groups.setdefault(tuple(row[name] for name in columns), []).append(row)
            self._groups[columns] = groups
        return self._groups[columns]

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], dict[tuple[Any, ...], list[Number]]]:
        return {}

    @property
    def name(self) -> str:
        return str(self.experiment["name"])

    def command_of(self, *words: str) -> list[str]:
        """Another command of the same experiment and overrides: "harness WORDS FILE --set .."."""
        return ["harness", *words, *shlex.split(self.command)[2:]]

    @property
    def tasks(self) -> Tasks | None:
        """What its students learn; None where they all learn everything."""
        section = self.experiment.get("tasks")
        return None if section is None else Tasks.model_validate(section)


RESULTS = Path("experiments/results")


def bundle_path(plan: Plan) -> Path:
    """Where the README's tables are made from, wherever the experiment file lies."""
    return RESULTS / f"{plan.experiment.name}.jsonl"


def unfinished_said(plan: Plan, root: Path) -> str:
    """ "3 of 12 cells are not finished in runs"; "" if all are."""
    n_missing = sum(not Store(root).directory(f).is_done for f in plan.cells)
    return f"{n_missing} of {len(plan.cells)} cells are not finished in {root}" if n_missing else ""


def export(plan: Plan, root: Path, file: Path, assignments: list[str]) -> str:
    """The text of a plan's bundle.

    Raises:
        UserError: a cell of the plan is not finished, or its predictions cannot be read.
    """
    store = Store(root)
    if unfinished := unfinished_said(plan, root):
        raise UserError(f"{plan.experiment.name}: {unfinished}; `harness run {file}` first")
    place = without_password(tracking_uri())
    overrides = [word for a in assignments for word in ("--set", a)]
    experiment = plan.experiment
    resolved = experiment.model_dump(mode="json")
    # What the data are, without the place of their files on this machine.
    resolved["dataset"] = {**experiment.dataset.identity(), "label": experiment.dataset.label}
    # Of what students learn: the same for all of them, or not to be told in one list.
    names_seen: set[tuple[str, ...]] = set()
    lines = []
    for fingerprint, cell in plan.cells.items():
        directory = store.directory(fingerprint)
        entries = plan.entries_of(fingerprint)
        predictions = read_predictions(directory)
        on_teachers = experiment.tasks and all(e.task is None for e in entries)
        if predictions and not on_teachers:
            names_seen.add(tuple(predictions["class_names"].tolist()))
        line = {
            "fingerprint": fingerprint,
            "entries": [
                {
                    "stage": e.stage,
                    "method": e.method,
                    "student": e.student,
                    "seed": e.seed,
                    **e.dimensions,
                }
                for e in entries
            ],
            **cell.as_json(),
            "manifest": directory.manifest,
            "mlflow_run_id": sync_state.find_run_id(
                directory, plan.experiment.name, plan.experiment.grid, place
            ),
            "curves": curves_of(directory),
            "confusion": confusion_of(predictions) if predictions else None,
        }
        lines.append(canonical(line))
    class_names = next(iter(names_seen)) if len(names_seen) == 1 else ()
    header = {
        "bundle": FORMAT,
        "experiment": resolved,
        "command": shlex.join(["harness", "run", file.as_posix(), *overrides]),
        "reported": experiment.protocol.reported,
        "protocol": experiment.protocol.label,
        "published": read_published(file.parent / experiment.published, network_labels(experiment))
        if experiment.published
        else [],
        "class_names": list(class_names) if 0 < len(class_names) <= MOST_NAMES else None,
    }
    return "\n".join([canonical(header), *lines]) + "\n"


def trained(plan: Plan, root: Path, file: Path, assignments: list[str]) -> Bundle:
    """The bundle of a plan's cells in a store; nothing is written.

    Raises:
        UserError: as `export`.
    """
    return read_bundle(bundle_path(plan), export(plan, root, file, assignments))


def curves_of(directory: CellDir) -> Curves:
    """The journal's epochs by metric, to six significant digits."""
    lines = directory.epochs()
    names = sorted({name for line in lines for name in line if name.startswith(CURVES)})
    return {
        name: [float(f"{line[name]:.6g}") if name in line else None for line in lines]
        for name in names
    }


def read_predictions(directory: CellDir) -> dict[str, np.ndarray] | None:
    """labels (N,), predictions (N,) and class_names (C,) of a cell; None if it has none.

    Raises:
        Damaged: the file is broken.
    """
    return read_predictions_file(directory / "predictions.npz")


def confusion_of(predictions: dict[str, np.ndarray]) -> Confusion:
    """[class, predicted class, number of images], sorted, without zeros."""
    pairs = zip(predictions["labels"].tolist(), predictions["predictions"].tolist(), strict=True)
    return [[label, predicted, n] for (label, predicted), n in sorted(Counter(pairs).items())]


def read_bundle(path: Path, text: str | None = None) -> Bundle:
    """The bundle in a file, or in `text` that is about to become that file.

    Raises:
        UserError: no such file, or not a bundle.
    """
    try:
        text = path.read_text(encoding="utf-8") if text is None else text
        header, cells = parse_lines(path, text)
        if header["bundle"] != FORMAT:
            raise ValueError("is of another format")
        return Bundle(
            path,
            header["experiment"],
            header["command"],
            header["reported"],
            header["protocol"],
            header["published"],
            [row for cell in cells for row in _rows(cell)],
            {c["fingerprint"]: c["curves"] for c in cells if "curves" in c},
            {c["fingerprint"]: c["confusion"] for c in cells if "confusion" in c},
            header.get("class_names"),
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; `harness tables FILE` writes it") from None
    except ValueError as error:
        what = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(
            f"{path}: not a bundle of this version ({what}); write it again with "
            "`harness tables FILE`"
        ) from None


def first_of_each(rows: list[Number]) -> list[Number]:
    """The first row of each cell."""
    found: dict[str, Number] = {}
    for row in rows:
        found.setdefault(row["fingerprint"], row)
    return list(found.values())


def _rows(cell: dict[str, Any]) -> list[Number]:
    manifest = cell["manifest"]
    return [
        {
            **{name: entry[name] for name in ("stage", "method", "student", "seed")},
            **{name: entry.get(name) for name in ("overlap", "shots")},
            "task": task_of(entry),
            "result": result,
            **values,
            "selected_epoch": manifest["selected_epoch"],
            "epochs": manifest["epochs"],
            "fingerprint": cell["fingerprint"],
            "mlflow_run_id": cell["mlflow_run_id"],
            "device": manifest["device"],
            "processor": _each(manifest.get("processor", ())),
            "threads": _each(manifest.get("threads", ())),
            "commits": tuple(manifest["commits"]),
            "dirty": manifest["dirty"],
            "torch": manifest["torch"],
            "seconds": manifest["seconds"],
            EVALUATION_SECONDS: manifest.get(EVALUATION_SECONDS),
            "data": canonical(manifest["data"]),
            "whole_digest": cell.get("spec", {}).get("data", {}).get("digest"),
        }
        for entry in cell["entries"]
        for result, values in manifest["results"].items()
    ]


def _each(value: Any) -> tuple[str, ...]:
    """One value, or several of a cell that went on elsewhere; none in older bundles."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
