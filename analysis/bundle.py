"""Finished cells -> a bundle (plain JSON lines, no weights) -> numbers.

A bundle is all that a table or a figure needs: it can be committed, sent and checked without a
database, weights or data. Its first line is the resolved experiment; then it has one line per cell.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.bundle_fields import (
    CellRecord,
    CorrectPart,
    ExperimentPart,
    Number,
    PaperTablePart,
    numbers_of,
    parse_lines,
)
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.metrics import ACCURACY
from harness.common.provenance import UNKNOWN
from harness.common.redaction import without_password
from harness.experiment.file import network_labels
from harness.experiment.published import networks_of, read_paper_table, read_published
from harness.experiment.tasks import Tasks
from harness.plan import TEACHER, Plan
from harness.store import CellDir, Store
from harness.store.predictions import read_predictions_file
from harness.track import sync_state
from harness.track.environment import tracking_uri

# Still 1 with curves and confusions: a reader that does not know them can read the rest.
FORMAT = 1
# The metrics of an epoch that figures show; MLflow has the rest.
CURVES = ("loss/total", "train/", "validation/", "test/")
# More names than this would not fit on a figure.
MOST_NAMES = 30

Curves = dict[str, list[float | None]]
Confusion = list[list[int]]


@dataclass(frozen=True)
class Bundle:
    """The results of one experiment.

    Attributes:
        experiment: The resolved experiment file.
        curves: By fingerprint: metric -> its value after each epoch, None if it was not measured
            there. Empty in a bundle that is older than curves.
        confusions: By fingerprint: [class, predicted class, number of test images] of the reported
            weights, without zeros; None for a cell without predictions.
        class_names: None if they are too many to be shown or differ between tasks; figures then
            number the classes.
        paper_table: Published numbers of other data that the summary shows beside ours.
        line_of: The number of a cell's line in the file, by fingerprint.
    """

    path: Path
    experiment: dict[str, Any]
    command: str
    reported: str
    protocol: str
    published: list[dict[str, str]]
    numbers: list[Number]
    curves: dict[str, Curves]
    confusions: dict[str, Confusion | None]
    class_names: list[str] | None
    paper_table: PaperTablePart | None = None
    line_of: dict[str, int] = field(default_factory=dict)

    @property
    def teacher(self) -> str:
        """The label of the teacher's network."""
        return next(number.student for number in self.numbers if number.stage == TEACHER)

    @property
    def cells(self) -> list[CellRecord]:
        """The cells behind the numbers."""
        return [number.cell for number in one_per_cell(self.numbers)]

    def by(self, *attributes: str) -> dict[tuple[Any, ...], list[Number]]:
        """Return the numbers grouped by these attributes of theirs; computed once."""
        if attributes not in self._groups:
            groups: dict[tuple[Any, ...], list[Number]] = {}
            for number in self.numbers:
                key = tuple(getattr(number, name) for name in attributes)
                groups.setdefault(key, []).append(number)
            self._groups[attributes] = groups
        return self._groups[attributes]

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], dict[tuple[Any, ...], list[Number]]]:
        return {}

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self.settings.name

    def command_of(self, *words: str) -> list[str]:
        """Return another command with this experiment's file and overrides."""
        return ["harness", *words, *shlex.split(self.command)[2:]]

    @cached_property
    def settings(self) -> ExperimentPart:
        """The fields of the experiment that tables read, typed."""
        return ExperimentPart.model_validate(self.experiment)

    @property
    def tasks(self) -> Tasks | None:
        """The students' tasks; None if they all learn the whole data set."""
        return self.settings.tasks


RESULTS = Path("experiments/results")
REPLICATION = ".replication.jsonl"  # ends the name of a bundle of other seeds


def bundle_path(plan: Plan, is_replication: bool = False) -> Path:
    """Return the path of a plan's committed bundle, or of its second one with other seeds."""
    return RESULTS / f"{plan.experiment.name}{REPLICATION if is_replication else '.jsonl'}"


def is_of_replication(path: Path) -> bool:
    """Return whether a file is the bundle of an experiment's second set of seeds."""
    return path.name.endswith(REPLICATION)


def replication_path(bundle: Bundle) -> Path:
    """Return the path of the bundle of the same experiment with other seeds."""
    return bundle.path.with_name(f"{bundle.name}{REPLICATION}")


def describe_unfinished(plan: Plan, root: Path) -> str:
    """Return how many cells are not finished in a store; "" if all are.

    Whoever uses a cell finds out whether its manifest can be read.
    """
    store = Store(root)
    n_missing = sum(not store.directory(f).has_manifest for f in plan.cells)
    return f"{n_missing} of {len(plan.cells)} cells are not finished in {root}" if n_missing else ""


# What changes the last digits of sums, and with them whole images.
SAME_FOR_ALL = ("device", "processor", "threads", "torch", "commits")


def check_unmixed(bundle: Bundle, allow_mixed: bool) -> None:
    """Check that all cells were trained alike.

    Raises:
        UserError: They come from several devices, processors, numbers of threads, versions of torch
            or commits.
    """
    if allow_mixed:
        return
    cells = [c.manifest for c in bundle.cells if c.manifest.epochs > 0]  # not imported
    for name in SAME_FOR_ALL:
        counts = Counter(getattr(cell, name) for cell in cells)
        several = [v for v in counts if isinstance(v, tuple) and len(v) > 1]
        if len(counts) > 1 or several:
            values = "; ".join(f"{_value_text(value)}: {n}" for value, n in counts.most_common())
            raise UserError(
                f"{bundle.name}: cells of different {name} ({values}); train them again with "
                "`harness run --store NEW`, or pass --mixed to say so under the table"
            )


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(value) or UNKNOWN
    return str(value)


def export(
    plan: Plan, root: Path, file: Path, assignments: list[str], *, is_partial: bool = False
) -> str:
    """Return the text of a plan's bundle; if it `is_partial`, of the finished cells alone.

    Raises:
        UserError: A cell of the plan is not finished, or its predictions cannot be read.
    """
    store = Store(root)
    if not is_partial and (unfinished := describe_unfinished(plan, root)):
        raise UserError(f"{plan.experiment.name}: {unfinished}; `harness run {file}` first")
    place = without_password(tracking_uri())
    overrides = [word for a in assignments for word in ("--set", a)]
    experiment, grid = plan.experiment, plan.experiment.grid
    resolved = experiment.model_dump(mode="json")
    # The data set's identity, without the place of its files on this machine.
    resolved["dataset"] = {**experiment.dataset.identity(), "label": experiment.dataset.label}
    # Classes have names only if all students learn the same ones.
    names_seen: set[tuple[str, ...]] = set()
    lines = []
    for fingerprint, cell in plan.cells.items():
        directory = store.watch(fingerprint)  # so that its journal is parsed once
        if is_partial and not directory.has_manifest:
            continue
        predictions = read_predictions(directory)
        if predictions and has_students_classes(plan, fingerprint):
            names_seen.add(tuple(predictions["class_names"].tolist()))
        line = {
            "fingerprint": fingerprint,
            "entries": table_entries(plan, fingerprint),
            **cell.as_json(),
            "manifest": directory.manifest.as_json(),
            "mlflow_run_id": sync_state.find_run_id(directory, experiment.name, grid, place),
            "curves": curves_of(directory),
            **predicted_fields(predictions, cell.metric == ACCURACY),
        }
        lines.append(canonical(line))
    class_names = next(iter(names_seen)) if len(names_seen) == 1 else ()
    header = {
        "bundle": FORMAT,
        "experiment": resolved,
        "command": shlex.join(["harness", "run", file.as_posix(), *overrides]),
        "reported": experiment.protocol.reported,
        "protocol": experiment.protocol_label,
        "published": read_published(file.parent / experiment.published, network_labels(experiment))
        if experiment.published
        else [],
        "class_names": list(class_names) if 0 < len(class_names) <= MOST_NAMES else None,
    }
    if experiment.paper_table and plan.images:
        rows = read_paper_table(file.parent / experiment.paper_table)
        header["paper_table"] = {
            "image_size": plan.images.image_size,
            "classes": plan.images.classes,
            "networks": networks_of(rows[0]),
            "rows": rows,
        }
    return "\n".join([canonical(header), *lines]) + "\n"


def table_entries(plan: Plan, fingerprint: str) -> list[dict[str, Any]]:
    """Return a cell's entries as a bundle has them."""
    return [
        {
            "stage": e.stage,
            "method": e.method,
            "student": e.student,
            "seed": e.seed,
            **e.dimensions,
        }
        for e in plan.entries_of(fingerprint)
    ]


def has_students_classes(plan: Plan, fingerprint: str) -> bool:
    """Return whether a cell classifies the students' classes, and not those of the teacher's task.

    Without tasks, these are the same.
    """
    return plan.experiment.tasks is None or any(e.task for e in plan.entries_of(fingerprint))


def trained(plan: Plan, root: Path, file: Path, assignments: list[str]) -> Bundle:
    """Return the bundle of a plan's cells in a store; nothing is written.

    Raises:
        UserError: As `export`.
    """
    return read_bundle(bundle_path(plan), export(plan, root, file, assignments))


def curves_of(directory: CellDir) -> Curves:
    """Return the journal's epochs by metric, to six significant digits."""
    lines = directory.epochs()
    names = sorted({name for line in lines for name in line if name.startswith(CURVES)})
    return {
        name: [float(f"{line[name]:.6g}") if name in line else None for line in lines]
        for name in names
    }


def read_predictions(directory: CellDir) -> dict[str, np.ndarray] | None:
    """Return labels (N,), predictions (N,) and class_names (C,) of a cell; None if it has none.

    Raises:
        Damaged: The file is broken.
    """
    return read_predictions_file(directory / "predictions.npz")


def confusion_of(predictions: dict[str, np.ndarray]) -> Confusion:
    """Return sorted triples of class, predicted class and number of images, without zeros."""
    n_classes = len(predictions["class_names"])
    labels, predicted = (predictions[name].astype(np.int64) for name in ("labels", "predictions"))
    pairs, counts = np.unique(labels * n_classes + predicted, return_counts=True)
    return np.stack([pairs // n_classes, pairs % n_classes, counts], axis=1).tolist()


def predicted_fields(
    predictions: dict[str, np.ndarray] | None, is_classifier: bool
) -> dict[str, Any]:
    """Return a bundle's fields for the predictions of a cell, which may have none."""
    if predictions is None:
        return {"confusion": None}
    labels, names = predictions["labels"], tuple(predictions["class_names"].tolist())
    images = _images_digest(labels.astype(np.int64).tobytes(), names)
    return {
        "confusion": confusion_of(predictions) if is_classifier else None,
        "correct": CorrectPart.pack(images, labels == predictions["predictions"]),
    }


@functools.lru_cache(maxsize=16)  # the cells of a task share their test images
def _images_digest(labels: bytes, names: tuple[str, ...]) -> str:
    content = [np.frombuffer(labels, np.int64).tolist(), names]
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:12]


def read_bundle(path: Path, text: str | None = None) -> Bundle:
    """Return the bundle in a file, or in `text` that is about to become that file.

    Raises:
        UserError: There is no such file, or it is no bundle.
    """
    try:
        text = path.read_text(encoding="utf-8") if text is None else text
        experiment, header, cells = parse_lines(path, text)
        if header.bundle != FORMAT:
            raise ValueError("is of another format")
        return Bundle(
            path,
            experiment,
            header.command,
            header.reported,
            header.protocol,
            header.published,
            [number for cell in cells for number in numbers_of(cell)],
            {c.fingerprint: c.curves for c in cells if "curves" in c.model_fields_set},
            {c.fingerprint: c.confusion for c in cells if "confusion" in c.model_fields_set},
            header.class_names,
            header.paper_table,
            {c.fingerprint: line for line, c in enumerate(cells, 2)},
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; `harness tables FILE` writes it") from None
    except ValueError as error:
        what = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(
            f"{path}: not a bundle of this version ({what}); write it again with "
            "`harness tables FILE`"
        ) from None


def one_per_cell(numbers: list[Number]) -> list[Number]:
    """Return the first number of each cell."""
    firsts: dict[str, Number] = {}
    for number in numbers:
        firsts.setdefault(number.cell.fingerprint, number)
    return list(firsts.values())
