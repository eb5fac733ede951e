"""A bundle: plain JSON lines without weights, from which numbers, tables and figures are made.

A bundle is all that a table or a figure needs: it can be committed, sent and checked without a
database, weights or data. Its first line is the resolved experiment; then it has one line per cell.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.analysis.bundle_fields import (
    CellRecord,
    ExperimentPart,
    Number,
    PaperTablePart,
    Parsed,
    numbers_of,
    parse_lines,
)
from harness.cell import network_options
from harness.common.errors import UserError
from harness.common.provenance import UNKNOWN
from harness.common.reading import read_user_text
from harness.experiment.pairs import SIDES
from harness.experiment.tasks import Tasks
from harness.plan import TEACHER, Plan
from harness.store import Store

# Still 1 with curves and confusions: a reader that does not know them can read the rest.
FORMAT = 1

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

    @cached_property
    def pairs(self) -> list[tuple[str | None, str]]:
        """The teacher's and the student's label of each pair; without pairs, None and a student."""
        if pairs := self.experiment.get("pairs"):
            labels = [[network_options(pair[s]).label for s in SIDES] for pair in pairs]
            return [(teacher, student) for teacher, student in labels]
        students = (n.student for n in self.numbers if n.stage != TEACHER)
        return [(None, student) for student in dict.fromkeys(students)]

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

    @property
    def file(self) -> Path:
        """The experiment's file, as the command names it."""
        return Path(shlex.split(self.command)[2])

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


def read_bundle(path: Path, text: str | None = None) -> Bundle:
    """Return the bundle in a file, or in `text` that is about to become that file.

    Raises:
        UserError: There is no such file, or it is no bundle.
    """

    def parse(path: Path) -> Parsed:
        return parse_lines(path, read_user_text(path) if text is None else text)

    return make_bundle(path, parse)


def make_bundle(path: Path, parse: Callable[[Path], Parsed]) -> Bundle:
    """Return the bundle that belongs into a file (errors of `read_bundle`)."""
    try:
        experiment, header, cells = parse(path)
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
