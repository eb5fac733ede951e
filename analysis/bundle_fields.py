"""What a bundle's lines must hold: all that tables and figures read of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import methods
from harness.common.errors import first_error
from harness.common.metrics import SelectionRule, ncm_metric
from harness.experiment.tasks import ALL, Task, Tasks
from harness.plan import TEACHER
from harness.store.cell_files import parse_json

# More classes than any data set has: a matrix of them would still fit into memory.
MOST_CLASSES = 30_000
Class = Annotated[int, Field(ge=0, lt=MOST_CLASSES)]
Dimension = Annotated[int, Field(ge=0)] | Literal["all"]


class Part(BaseModel):
    """A piece of a line. Further fields are left alone: a newer version may have written them."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ProtocolPart(Part):
    ncm_centers: str
    evaluate_every: int = 1


class TrialsPart(Part):
    trials: int | None


class TunedPart(TrialsPart):
    tasks: list[TrialsPart] = []


class ExperimentPart(Part):
    name: str
    methods: list[str] = Field(min_length=1)
    seeds: list[int]
    protocol: ProtocolPart
    tuned: dict[str, TunedPart] | None = None
    tasks: Tasks | None = None


class Header(Part):
    """The first line."""

    bundle: int
    experiment: ExperimentPart
    command: str
    reported: SelectionRule
    protocol: str
    published: list[dict[str, str]]
    class_names: list[str] | None = None


class TableEntryPart(Part):
    """A bundle may be older than tasks, which have overlap and shots."""

    stage: str
    method: str
    student: str
    seed: int
    overlap: Dimension | None = None
    shots: Dimension | None = None


class Forms(Part):
    last: float
    selected: float
    best_on_test: float


class DataPart(Part):
    model_config = ConfigDict(strict=True, extra="allow")
    name: str
    digest: str
    train: int
    test: int
    __pydantic_extra__: dict[str, int]


class ManifestPart(Part):
    results: dict[str, Forms]
    selected_epoch: int
    epochs: int
    seconds: float
    evaluation_seconds: float | None = None
    device: str
    torch: str
    commits: list[str]
    dirty: bool | None
    data: DataPart


class SpecDataPart(Part):
    digest: str | None = None


class SpecPart(Part):
    data: SpecDataPart = SpecDataPart()


class CellLine(Part):
    """Every other line. A bundle may be older than curves and confusions."""

    fingerprint: str
    entries: list[TableEntryPart]
    spec: SpecPart = SpecPart()
    manifest: ManifestPart
    mlflow_run_id: str | None
    curves: dict[str, list[float | None]] = {}
    confusion: list[Annotated[list[Class], Field(min_length=2)]] | None = None


def parse_lines(path: Path, text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the cells' lines.

    Raises:
        ValueError: a line cannot be read, or a field is missing or has another type; which one.
        UserError: a method that this version does not know.
    """
    header, *cells = checked_lines(text, Header, lambda line: CellLine)
    if not cells:
        raise ValueError("has no cells")
    _check_experiment(path, header["experiment"])
    _check_together(header, cells)
    return header, cells


def checked_lines(
    text: str, first: type[Part], model_of: Callable[[dict[str, Any]], type[Part]]
) -> list[dict[str, Any]]:
    """The lines of a bundle, the first as `first` has it, each other one as its model.

    Raises:
        ValueError: a line cannot be read, or a field is missing or has another type; which one.
    """
    lines = text.split("\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        try:
            read = parse_json(line.encode("utf-8", "surrogateescape"))
            if not isinstance(read, dict):
                raise ValueError("is no JSON object")
            _check(model_of(read) if found else first, read)
        except ValueError as error:
            raise ValueError(f"line {number} {error}") from None
        found.append(read)
    return found


def _check(model: type[Part], line: dict[str, Any]) -> None:
    try:
        model.model_validate(line)
    except ValidationError as error:
        raise ValueError(f"has a wrong field: {first_error(error, model)[:200]}") from None


def _check_experiment(path: Path, experiment: dict[str, Any]) -> None:
    """The sections that the methods' labels and schedules come from."""
    for name in experiment["methods"]:
        method = methods.get_method(name, f"{path}: experiment.methods")
        try:
            method.label_in(experiment)
            for stage in (methods.SUPERVISED, *method.stages):
                methods.n_epochs(stage.kind, experiment)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise ValueError(f"line 1 lacks settings of the method {name!r}") from None
    try:
        ncm_metric(experiment["protocol"]["ncm_centers"])
    except KeyError:
        raise ValueError("line 1 has unknown protocol.ncm_centers") from None


def task_of(entry: dict[str, Any]) -> Task | None:
    """What an entry's student learns; None without tasks, and on the teacher's."""
    dimensions = {name: entry.get(name) for name in ("overlap", "shots")}
    if all(value is None for value in dimensions.values()):
        return None
    return Task.from_dimensions({name: ALL if v is None else v for name, v in dimensions.items()})


def _check_together(header: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    rows = [e for c in cells for e in c["entries"] if c["manifest"]["results"]]
    section = header["experiment"].get("tasks")
    known = {None} if section is None else {None, *Tasks.model_validate(section).all}
    for number, cell in enumerate(cells, 2):
        if any(task_of(entry) not in known for entry in cell["entries"]):
            raise ValueError(f"line {number} is of a task that line 1 does not have")
    if section is not None and all(task_of(e) is None for e in rows):
        raise ValueError("has no student of a task")
    if all(e["stage"] == TEACHER for e in rows):
        raise ValueError("has no student")
    needs_teacher = any(methods.get_method(m).needs for m in header["experiment"]["methods"])
    if needs_teacher and not any(e["stage"] == TEACHER for e in rows):
        raise ValueError("has no teacher")
    if any({"source", "row", "protocol"} - row.keys() for row in header["published"]):
        raise ValueError("line 1 has a published row without source, row or protocol")
    names = header.get("class_names")
    for number, cell in enumerate(cells, 2):
        for entry in cell.get("confusion") or []:
            if len(entry) != 3 or (names is not None and max(entry[:2]) >= len(names)):
                raise ValueError(f"line {number} has a confusion of classes that are not there")
