"""Experiment -> plan: the cells to train, and the entries of the table that they give."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pydantic import BaseModel

from harness.cell import Cell, CellConfig, CellData, network_options
from harness.common.metrics import ACCURACY
from harness.data import Dataset, DatasetOptions
from harness.data.views import View
from harness.experiment.experiment import Experiment
from harness.experiment.pairs import SIDES, Pair, pair_label
from harness.experiment.protocol import Protocol
from harness.experiment.tasks import Task, TaskViews
from harness.methods import IMPORTED, SECTIONS, SUPERVISED, get_method
from harness.methods.base import TEACHER as TEACHER
from harness.methods.base import Method, Stage
from harness.networks import NetworkOptions
from harness.networks.pixels import PIXELS, PixelsOptions

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class TableEntry:
    """The part of a cell in one experiment: a number of its table.

    Attributes:
        stage: A stage of the method, or "teacher", whose method is "teacher" too.
        task: The student's task; None if the experiment has no tasks, or if the stage is trained on
            the teacher's task with the same settings for all tasks.
        teacher: The teacher's network, in an experiment with pairs; None where it does not matter,
            and with one teacher for all.
    """

    fingerprint: str
    stage: str
    method: str
    student: str
    seed: int
    task: Task | None = None
    teacher: str | None = None

    @property
    def networks(self) -> str:
        """The student's network, or the pair as "resnet56>resnet20"."""
        if self.teacher is None or self.method == TEACHER:
            return self.student
        return pair_label(self.teacher, self.student)

    @property
    def dimensions(self) -> dict[str, int | str]:
        """Overlap and shots of the task, as bundles and MLflow have them."""
        return {} if self.task is None else self.task.dimensions

    @property
    def name(self) -> str:
        """The run name in MLflow and in the live display.

        A method is named beside the stage only if it has several stages.
        """
        stages = () if self.method == TEACHER else get_method(self.method).stages
        networks = [self.networks]
        if stages and not stages[-1].by_student:  # the number is the same for every student
            networks = [self.teacher] if self.teacher else []
        if len(stages) > 1:
            words = [self.method, *networks, self.stage]
        else:
            words = [display_role(self.stage, self.method), *networks]
        return " ".join((*words, *(self.task.words if self.task else ()), f"s{self.seed}"))


def display_role(stage: str, method: str) -> str:
    """Return the role of a cell in a grid, for names and tags.

    That is its stage or, for a method that trains another method's stage for longer or with other
    settings, the method.
    """
    if method == TEACHER:
        return stage
    resolved = get_method(method)
    return method if resolved.epochs_factor != 1 or resolved.overrides else stage


@dataclass(frozen=True)
class Counts:
    """The sizes of the whole data set, whatever part of it a cell sees.

    Attributes:
        image_size: (height, width).
        classes: The number of classes.
        parts: train, validation, test -> number of images.
    """

    image_size: tuple[int, int]
    classes: int
    parts: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """The cells of an experiment, and the entries of its table.

    Attributes:
        cells: Fingerprint -> cell; each cell comes after its upstream cells.
        entries: The numbers of the table. Two entries may share a cell: the teacher and the plain
            student of one network are one training.
        images: The sizes of the data set; None if they are unknown.
    """

    experiment: Experiment
    cells: dict[str, Cell]
    entries: tuple[TableEntry, ...]
    images: Counts | None = None

    def entries_of(self, fingerprint: str) -> list[TableEntry]:
        """Return the entries that a cell gives."""
        return self._by_cell.get(fingerprint, [])

    def name_of(self, fingerprint: str) -> str:
        """Return the run name of a cell, that of its first entry."""
        return self.entries_of(fingerprint)[0].name

    @property
    def imported_teachers(self) -> dict[str, Cell]:
        """The teachers from published files, by fingerprint."""
        return {f: cell for f, cell in self.cells.items() if cell.kind == IMPORTED}

    def teacher_of(self, cell: Cell) -> NetworkOptions | None:
        """Return the network of a cell's teacher; None if it takes none."""
        fingerprint = cell.upstream.get(TEACHER)
        return self.cells[fingerprint].config.network if fingerprint else None

    @cached_property
    def _by_cell(self) -> dict[str, list[TableEntry]]:
        result: dict[str, list[TableEntry]] = {}
        for entry in self.entries:
            result.setdefault(entry.fingerprint, []).append(entry)
        return result


def chain_lengths(cells: dict[str, Cell], lengths: Mapping[str, float]) -> dict[str, float]:
    """Return, for each cell, the length of the longest dependency chain that starts there.

    Args:
        cells: Fingerprint -> cell, each after its upstream cells.
        lengths: Fingerprint -> length of the cell alone; 0 if it is left out.
    """
    longest_below = dict.fromkeys(cells, 0.0)
    chains = {}
    for fingerprint in reversed(cells):
        chains[fingerprint] = lengths.get(fingerprint, 0) + longest_below[fingerprint]
        for upstream in cells[fingerprint].upstream.values():
            longest_below[upstream] = max(longest_below[upstream], chains[fingerprint])
    return chains


def whole_data(options: DatasetOptions, dataset: Dataset) -> CellData:
    """Return the data of a cell that sees all of them."""
    data = {**options.identity(), "digest": dataset.digest}
    if dataset.test is None:  # for tuning, whose processes must not have the test images
        data["without_test"] = True
    return CellData.model_validate(data)


# Switches that came after the first cells: they are written only if they differ from what all cells
# had before.
LATER = (
    *("ties", "last_look", "initial_weights", "evaluate_every", "select_by"),
    "convolution_init",
)


def cell_config(
    experiment: Experiment,
    stage: Stage,
    network: NetworkOptions,
    data: CellData,
    seed: int,
    starts_anew: bool = False,
) -> CellConfig:
    """Return everything that decides the result of a stage, as far as the stage depends on it.

    Args:
        experiment: The experiment with the method's settings (`Experiment.for_method`) and every
            default written (`with_written_defaults`).
        stage: The stage that is trained.
        network: The network that it trains.
        data: The data that it trains on.
        seed: The seed of the cell.
        starts_anew: Whether it is a student's first stage, which draws its initial weights.
    """
    protocol = experiment.protocol
    if not trains_on_validation(protocol, data.view):
        protocol = protocol.model_copy(update={"train_on": "train"})
    switches = ["train_on", "selection", *stage.switches]
    if starts_anew:
        switches.append("initial_weights")
    if starts_anew or stage is SUPERVISED:
        switches.append("convolution_init")
    if stage.schedule and stage.metric == ACCURACY:
        switches += ["evaluate_every", "select_by"]
    if protocol.selection != "last":
        switches.append("ties")
    return CellConfig(
        data=data,
        network=network,
        optimizer=experiment.optimizer,
        protocol=written_switches(protocol, tuple(switches)),
        seed=seed,
        sections={name: getattr(experiment, name) for name in stage.all_sections},
    )


def write_defaults(model: M) -> M:
    """Return the model with every default in its JSON: a cell depends on the default's value."""
    return model.model_copy(update=dict(model))


def with_written_defaults(experiment: Experiment) -> Experiment:
    """Return the experiment with every default in the JSON of its sections."""
    parts = {name: write_defaults(getattr(experiment, name)) for name in ("optimizer", *SECTIONS)}
    return experiment.model_copy(update=parts)


@functools.cache  # one object for all cells that share it
def written_switches(protocol: Protocol, names: tuple[str, ...]) -> Protocol:
    """Return the protocol with the named switches in its JSON, as far as they are written."""
    always, values = Protocol(), {name: getattr(protocol, name) for name in names}
    return Protocol(
        **{n: v for n, v in values.items() if n not in LATER or v != getattr(always, n)}
    )


def task_views(experiment: Experiment, dataset: Dataset) -> TaskViews:
    """Return the views of an experiment's tasks.

    Raises:
        UserError: The data set lacks the classes or the images of a task.
    """
    return TaskViews(experiment.tasks, dataset)


def trains_on_validation(protocol: Protocol, view: View) -> bool:
    """Return whether validation images train as well.

    Few images are drawn from the training part under every protocol, so that protocols are compared
    on the same images.
    """
    return protocol.train_on == "train+validation" and view.shots is None


def settings_differ(experiment: Experiment, method: str) -> bool:
    """Return whether a method is tuned for single tasks."""
    tuned = (experiment.tuned or {}).get(method)
    return tuned is not None and bool(tuned.tasks)


def imported_cell(teacher: NetworkOptions, checkpoint: str, data: CellData) -> Cell:
    """Return the teacher from a published file: one cell for all seeds.

    It depends only on what the file decides.

    Args:
        teacher: The network.
        checkpoint: The file's SHA-256.
        data: The data of the teacher.
    """
    elsewhere = {"dropout", "final_bn_momentum", "weights"}
    network = network_options(teacher.model_dump(exclude=elsewhere))
    return Cell(IMPORTED, CellConfig(data=data, network=network, checkpoint=checkpoint))


def make_plan(experiment: Experiment, dataset: Dataset) -> Plan:
    """Return the plan of an experiment; no file is touched.

    Raises:
        UserError: The data set lacks the classes or the images of a task.
    """
    views = task_views(experiment, dataset)
    # Only this function decides which data a cell has.
    whole = whole_data(experiment.dataset, dataset)
    teacher_data = whole.seen_through(views.teacher())
    tasks = [None] if experiment.tasks is None else experiment.tasks.all
    methods = {task: experiment.methods_for_task(task) for task in tasks}
    # Pairs without settings of their own share the method's.
    shared = {
        (method.name, task): with_written_defaults(experiment.for_method(method.name, task))
        for task in tasks
        for method in experiment.resolved_methods
    }
    common = with_written_defaults(experiment)
    batch_size = experiment.teacher_batch_size or experiment.optimizer.batch_size
    optimizer = common.optimizer.model_copy(update={"batch_size": batch_size})
    of_teacher = common.model_copy(update={"optimizer": optimizer})
    height, width = dataset.image_size
    pixels = write_defaults(PixelsOptions(height=height, width=width))
    pairs = [
        pair.model_copy(update={side: write_defaults(getattr(pair, side)) for side in SIDES})
        for pair in experiment.all_pairs
    ]
    cells: dict[str, Cell] = {}

    def add(cell: Cell) -> str:
        fingerprint = cell.fingerprint
        cells.setdefault(fingerprint, cell)
        return fingerprint

    def teacher_of(pair: Pair, seed: int) -> Cell:
        if pair.teacher_checkpoint:
            return imported_cell(pair.teacher, pair.teacher_checkpoint, teacher_data)
        config = cell_config(of_teacher, SUPERVISED, pair.teacher, teacher_data, seed)
        return Cell(SUPERVISED.kind, config)

    def stages_of(
        method: Method,
        pair: Pair,
        task: Task | None,
        seed: int,
        teacher: dict[str, str],
        students_data: CellData,
    ) -> Iterator[TableEntry]:
        settings = shared[method.name, task]
        if pair.settings:
            settings = with_written_defaults(experiment.for_method(method.name, task, pair))
        upstream = teacher if method.needs else {}
        named = pair.teacher.label if experiment.pairs and method.needs else None
        for stage in method.stages:
            on_teachers = stage.task == TEACHER
            data = teacher_data if on_teachers else students_data
            network = pair.student
            if stage.network == TEACHER:
                network, upstream = pair.teacher, {"initial": teacher[TEACHER]}
            elif stage.network == PIXELS:
                network = pixels
            starts_anew = stage.by_student and "initial" not in upstream
            config = cell_config(settings, stage, network, data, seed, starts_anew)
            fingerprint = add(Cell(stage.kind, config, upstream))
            is_shared = on_teachers and not settings_differ(experiment, method.name)
            entry_task = None if is_shared else task
            names = stage.name, method.name, pair.student.label
            yield TableEntry(fingerprint, *names, seed, entry_task, named)
            upstream = {**upstream, "initial": fingerprint}

    def entries() -> Iterator[TableEntry]:
        for seed in experiment.seeds:
            students_data = {task: whole.seen_through(views.student(task, seed)) for task in tasks}
            for pair in pairs:
                teacher: dict[str, str] = {}
                if experiment.needs_teacher:
                    teacher = {TEACHER: add(teacher_of(pair, seed))}
                    label = pair.teacher.label
                    yield TableEntry(
                        *(teacher[TEACHER], TEACHER, TEACHER, label, seed),
                        teacher=label if experiment.pairs else None,
                    )
                for task in tasks:
                    for method in methods[task]:
                        yield from stages_of(method, pair, task, seed, teacher, students_data[task])

    # A stage on the teacher's task comes up once per task, a teacher once per pair, but each is one
    # entry.
    distinct = tuple(dict.fromkeys(entries()))
    sizes = {name: len(part) for name, part in dataset.parts.items()}
    counts = Counts(dataset.image_size, len(dataset.class_names), sizes)
    return Plan(experiment, cells, distinct, counts)
