"""The lines of a bundle as typed records: everything that tables and figures read of them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from harness import methods
from harness.analysis.json_lines import read_records, validated
from harness.cell import network_options
from harness.common.errors import UserError
from harness.common.metrics import ACCURACY, SelectionRule, ncm_metric
from harness.experiment.pairs import SIDES
from harness.experiment.tasks import ALL, Task, Tasks
from harness.plan import TEACHER

# More classes than any data set has: a matrix of them would still fit into memory.
MOST_CLASSES = 30_000
# What figures can scale; float32 ends far below.
Measured = Annotated[float, Field(ge=-1e100, le=1e100)]
Class = Annotated[int, Field(ge=0, lt=MOST_CLASSES)]
Dimension = Annotated[int, Field(ge=0)] | Literal["all"]


class Part(BaseModel):
    """Part of a line. Unknown fields are ignored: a newer version may have written them."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ProtocolPart(Part):
    """The protocol's switches that a table depends on."""

    ncm_centers: str
    evaluate_every: int = 1
    select_by: str = "accuracy"


class TrialsPart(Part):
    """The tuning trials behind some settings, and the number of parameters that they tuned.

    Both are None for settings written by hand; older bundles have no number of parameters.
    """

    trials: int | None
    parameters: int | None = None


class TunedPart(TrialsPart):
    """The tuning trials of one method."""

    tasks: list[TrialsPart] = []


class ExperimentPart(Part):
    """The fields of an experiment that tables read."""

    name: str
    methods: list[str] = Field(min_length=1)
    seeds: list[int]
    protocol: ProtocolPart
    claims: list[str] = []
    secondary_claims: list[str] = []
    tuned: dict[str, TunedPart] | None = None
    tasks: Tasks | None = None


class PaperTablePart(Part):
    """Published numbers of other data, and what is said of ours: (height, width) and classes."""

    image_size: list[int] = Field(min_length=2, max_length=2)
    classes: int
    networks: list[str]
    rows: list[dict[str, str]] = Field(min_length=1)


class Header(Part):
    """The first line of a bundle."""

    bundle: int
    experiment: ExperimentPart
    command: str
    reported: SelectionRule
    protocol: str
    published: list[dict[str, str]]
    class_names: list[str] | None = None
    paper_table: PaperTablePart | None = None


class TableEntryPart(Part):
    """An entry of the table. A bundle may be older than tasks, which have overlap and shots.

    `teacher` stands in bundles with pairs, where an entry depends on it.
    """

    stage: str
    method: str
    student: str
    seed: int
    teacher: str | None = None
    overlap: Dimension | None = None
    shots: Dimension | None = None

    @cached_property
    def task(self) -> Task | None:
        """The student's task; None without tasks, and for what is trained on the teacher's."""
        dimensions = {"overlap": self.overlap, "shots": self.shots}
        if all(value is None for value in dimensions.values()):
            return None
        return Task.from_dimensions(
            {name: ALL if v is None else v for name, v in dimensions.items()}
        )


class Accuracies(Part):
    """One metric on the test set under each selection rule, as fractions."""

    last: Measured
    selected: Measured
    best_on_test: Measured


class DataPart(Part):
    """The data set that a cell saw; further fields are the sizes of further parts."""

    model_config = ConfigDict(strict=True, extra="allow")
    name: str
    digest: str
    train: int
    test: int
    __pydantic_extra__: dict[str, int]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images of each part, by its name."""
        return dict(
            sorted({"train": self.train, "test": self.test, **(self.model_extra or {})}.items())
        )


def _texts(value: Any) -> tuple[str, ...]:
    """Return one value, or several if a cell was resumed on another machine, as texts."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def _from_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class ManifestPart(Part):
    """A finished cell's manifest. Older bundles have neither processor nor threads."""

    results: dict[str, Accuracies]
    selected_epoch: int
    epochs: int
    seconds: float
    evaluation_seconds: float | None = None
    device: str
    processor: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    threads: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    torch: str
    commits: Annotated[tuple[str, ...], BeforeValidator(_from_list)]
    dirty: bool | None
    data: DataPart


class SpecDataPart(Part):
    """The digest of the data set before a task's classes and images were chosen."""

    digest: str | None = None


class SpecPart(Part):
    """The part of a cell's config that tables read."""

    data: SpecDataPart = SpecDataPart()
    optimizer: dict[str, Any] = {}


class CorrectPart(Part):
    """Which test images a cell classifies correctly.

    Attributes:
        images: The digest of the images' labels and class names: equal for the same images.
        bits: One bit per image, packed and in base64.
    """

    images: str
    bits: str

    @staticmethod
    def pack(images: str, correct: np.ndarray) -> dict[str, str]:
        """Return the fields for the booleans (N,), as plain JSON data."""
        return {"images": images, "bits": base64.b64encode(np.packbits(correct).tobytes()).decode()}

    def unpack(self, n_images: int) -> np.ndarray:
        """Return the booleans (N,).

        Raises:
            ValueError: The bits are not those of N images.
        """
        packed = np.frombuffer(base64.b64decode(self.bits, validate=True), np.uint8)
        if len(packed) != -(-n_images // 8):
            raise ValueError(f"correct.bits are not those of {n_images} test images")
        return np.unpackbits(packed, count=n_images).astype(bool)


class CellRecord(Part):
    """A finished cell: every line of a bundle but the first.

    A bundle may be older than curves, confusions and the images that are classified correctly.

    Attributes:
        curves: Metric -> its value after each epoch, None if it was not measured there.
        confusion: [class, predicted class, number of test images], without zeros.
        correct: The test images that the reported weights classify correctly: by the classifier, or
            after stage 1 by the nearest class mean in the protocol's form.
    """

    fingerprint: str
    entries: list[TableEntryPart]
    spec: SpecPart = SpecPart()
    manifest: ManifestPart
    mlflow_run_id: str | None
    curves: dict[str, list[Measured | None]] = {}
    confusion: list[Annotated[list[Class], Field(min_length=2)]] | None = None
    correct: CorrectPart | None = None

    @property
    def correct_images(self) -> np.ndarray | None:
        """Whether each test image (N,) is classified correctly; None if that is not known."""
        return None if self.correct is None else self.correct.unpack(self.manifest.data.test)


@dataclass(frozen=True, slots=True)
class Number:
    """One number of the results: a metric that one cell measured for one entry of the table.

    Attributes:
        task: The student's task; None without tasks, and for what is trained on the teacher's.
        result: The name of the metric.
        last, selected, best_on_test: The metric under each selection rule, as a fraction.
        cell: The cell that measured it.
        teacher: As in `harness.plan.TableEntry`.
    """

    stage: str
    method: str
    student: str
    seed: int
    task: Task | None
    result: str
    last: float
    selected: float
    best_on_test: float
    cell: CellRecord
    teacher: str | None = None

    def accuracy(self, rule: str) -> float:
        """Return the number under a selection rule, as a fraction."""
        return float(getattr(self, rule))

    def leak(self) -> float:
        """Return how much choosing the epoch on the test set adds to the last one, as a fraction.

        Both epochs are of one training, so nothing else differs.
        """
        return self.best_on_test - self.last


def numbers_of(cell: CellRecord) -> list[Number]:
    """Return one number per entry and metric of a cell."""
    return [
        Number(
            *(entry.stage, entry.method, entry.student, entry.seed, entry.task, result),
            *(values.last, values.selected, values.best_on_test, cell, entry.teacher),
        )
        for entry in cell.entries
        for result, values in cell.manifest.results.items()
    ]


# The experiment as plain data, the header, and the cells.
Parsed = tuple[dict[str, Any], Header, list[CellRecord]]


def parse_lines(path: Path, text: str) -> Parsed:
    """Parse a bundle.

    Raises:
        ValueError: A line cannot be read, or a field is missing or has another type; which one.
        UserError: This version does not know one of the methods.
    """
    return _checked(path, *read_records(text, Header, lambda line: CellRecord))


def check_lines(path: Path, lines: list[dict[str, Any]]) -> Parsed:
    """Return the bundle with these lines, as plain data, without the way through its text.

    Raises:
        ValueError, UserError: As `parse_lines`.
    """
    raw, *cells = lines
    records = [validated(CellRecord, cell) for cell in cells]
    return _checked(path, raw, validated(Header, raw), records)


def _checked(path: Path, raw: dict[str, Any], header: Header, cells: list[CellRecord]) -> Parsed:
    if not cells:
        raise ValueError("has no cells")
    _check_experiment(path, raw["experiment"])
    _check_together(header, cells)
    return raw["experiment"], header, cells


def _check_experiment(path: Path, experiment: dict[str, Any]) -> None:
    """Check the sections that the methods' labels and schedules come from."""
    for name in experiment["methods"]:
        method = methods.get_method(name, f"{path}: experiment.methods")
        try:
            method.label_in(experiment)
            for stage in (methods.SUPERVISED, *method.stages):
                if stage.schedule:
                    int(experiment[stage.schedule]["epochs"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise ValueError(f"line 1 lacks settings of the method {name!r}") from None
    try:
        for pair in experiment.get("pairs", ()):
            for side in SIDES:
                network_options(pair[side])
    except (KeyError, TypeError, AttributeError, UserError):
        raise ValueError("line 1 has a pair without known networks") from None
    try:
        ncm_metric(experiment["protocol"]["ncm_centers"])
    except KeyError:
        raise ValueError("line 1 has unknown protocol.ncm_centers") from None


def _check_together(header: Header, cells: list[CellRecord]) -> None:
    entries = [entry for cell in cells for entry in cell.entries if cell.manifest.results]
    tasks = header.experiment.tasks
    known = {None} if tasks is None else {None, *tasks.all}
    for line, cell in enumerate(cells, 2):
        if any(entry.task not in known for entry in cell.entries):
            raise ValueError(f"line {line} is of a task that line 1 does not have")
    if tasks is not None and all(entry.task is None for entry in entries):
        raise ValueError("has no student of a task")
    if all(entry.stage == TEACHER for entry in entries):
        raise ValueError("has no student")
    needs_teacher = any(methods.get_method(m).needs for m in header.experiment.methods)
    if needs_teacher and not any(entry.stage == TEACHER for entry in entries):
        raise ValueError("has no teacher")
    published = [*header.published, *(header.paper_table.rows if header.paper_table else [])]
    if any({"source", "row", "protocol"} - row.keys() for row in published):
        raise ValueError("line 1 has a published row without source, row or protocol")
    names = header.class_names
    for line, cell in enumerate(cells, 2):
        _check_correct(header, cell, line)
        for counted in cell.confusion or []:
            if len(counted) != 3 or (names is not None and max(counted[:2]) >= len(names)):
                raise ValueError(f"line {line} has a confusion of classes that are not there")


def _check_correct(header: Header, cell: CellRecord, line: int) -> None:
    """Check that the images that are right are as many as the reported accuracy says."""
    try:
        correct = cell.correct_images
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None
    results = cell.manifest.results
    name = ACCURACY if ACCURACY in results else ncm_metric(header.experiment.protocol.ncm_centers)
    if correct is not None and name in results:
        expected = getattr(results[name], header.reported) * len(correct)
        if abs(correct.sum() - expected) > 0.5:
            raise ValueError(f"line {line}: correct.bits do not fit the accuracy of their cell")
