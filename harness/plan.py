"""Experiment -> cells: the units of work, each with a fingerprint of everything it depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from harness.data import Dataset
from harness.networks import Options
from harness.spec import Experiment

# Raise it when the same cell would train to different numbers: every older cell becomes stale.
SEMANTICS = 1


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Cell:
    """One training run.

    kind: supervised (teacher or plain student), kd, stage1, stage2, or imported (a teacher from a
        published file, made by `harness import-checkpoint`).
    spec: everything that decides the result, as plain JSON data.
    upstream: role ("teacher", "initial") -> fingerprint of the cell whose model it starts from.
    """

    kind: str
    spec: dict[str, Any]
    upstream: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(canonical(self.as_json()).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "semantics": SEMANTICS,
            "spec": self.spec,
            "upstream": self.upstream,
        }


@dataclass(frozen=True)
class Entry:
    """What a cell is in one experiment: a number of its table. `stage` is one of teacher, student,
    kd, stage1, stage2; `method` is the experiment's own word for it."""

    fingerprint: str
    stage: str
    method: str
    student: str
    seed: int

    @property
    def name(self) -> str:
        """Run name in MLflow and in the live display."""
        middle = self.stage if self.stage in ("teacher", "student", "kd") else self.method
        suffix = f" {self.stage}" if self.stage in ("stage1", "stage2") else ""
        return f"{middle} {self.student}{suffix} s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """cells: fingerprint -> cell, in an order in which each comes after its upstream cells.
    entries: the numbers of the table; two entries may share a cell (the teacher and the plain
    student of the same network are one training run)."""

    experiment: Experiment
    cells: dict[str, Cell]
    entries: tuple[Entry, ...]

    def entries_of(self, fingerprint: str) -> list[Entry]:
        return [e for e in self.entries if e.fingerprint == fingerprint]

    def name_of(self, fingerprint: str) -> str:
        return self.entries_of(fingerprint)[0].name

    @property
    def grid(self) -> str:
        """Identity of the grid in MLflow: the settings, without the lists that may grow."""
        settings = self.experiment.model_dump(
            mode="json",
            exclude={
                *("students", "methods", "seeds", "description", "published", "teacher_source")
            },
        )
        settings["dataset"] = self.experiment.dataset.identity()  # data may lie anywhere
        return hashlib.sha256(canonical(settings).encode()).hexdigest()[:16]


def relation_of(method: str, experiment: Experiment) -> str | None:
    """The stage-1 relation of a ReFilled method, None for the other methods."""
    if not method.startswith("refilled"):
        return None
    return method.removeprefix("refilled").removeprefix("-") or experiment.stage1.relation


def _settings(experiment: Experiment, method: str) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with the method's own settings, and from it those of each kind of cell."""
    own = experiment.for_method(method)
    training = {"training": own.training.model_dump(mode="json")}
    stage1 = own.stage1.model_dump(mode="json") | {"relation": relation_of(method, own)}
    return own, {
        "training": training,
        "kd": training | {"kd": own.kd.model_dump(mode="json")},
        "stage1": {"stage1": stage1, "ncm_centers": own.protocol.ncm_centers},
        "stage2": {
            "stage2": own.stage2.model_dump(mode="json"),
            "center_images": own.protocol.center_images,
        },
    }


def make_plan(experiment: Experiment, dataset: Dataset) -> Plan:
    """The cells of an experiment. Pure: no file is touched."""
    data = {**experiment.dataset.identity(), "digest": dataset.digest}
    if dataset.test is None:  # a tuning cell: its process must not have the test images either
        data["without_test"] = True
    protocol = experiment.protocol.model_dump(mode="json", include={"train_on", "selection"})
    cells: dict[str, Cell] = {}
    entries: list[Entry] = []

    def add(
        kind: str,
        network: Options,
        seed: int,
        own: Experiment,
        settings: dict[str, Any],
        **upstream: str,
    ) -> str:
        spec = {
            "data": data,
            "network": network.model_dump(mode="json"),
            "optimizer": own.optimizer.model_dump(mode="json"),
            "protocol": protocol,
            "seed": seed,
            **settings,
        }
        cell = Cell(kind, spec, upstream)
        cells.setdefault(cell.fingerprint, cell)
        return cell.fingerprint

    def imported() -> str:
        """One cell for all seeds; only what the file itself decides is part of it."""
        architecture = experiment.teacher.model_dump(
            mode="json", exclude={"dropout", "final_bn_momentum"}
        )
        spec = {
            "data": data,
            "network": architecture,
            "checkpoint": experiment.teacher_checkpoint,
        }
        cell = Cell("imported", spec)
        cells.setdefault(cell.fingerprint, cell)
        return cell.fingerprint

    settings_of = {m: _settings(experiment, m) for m in experiment.methods}
    teacher_settings = {"training": experiment.training.model_dump(mode="json")}
    needs_teacher = any(m != "plain" for m in experiment.methods)
    for seed in experiment.seeds:
        teacher = ""
        if needs_teacher and experiment.teacher_checkpoint:
            teacher = imported()
            entries.append(Entry(teacher, "teacher", "teacher", experiment.teacher.label, seed))
        elif needs_teacher:
            teacher = add("supervised", experiment.teacher, seed, experiment, teacher_settings)
            entries.append(Entry(teacher, "teacher", "teacher", experiment.teacher.label, seed))
        for student in experiment.students:
            for method in experiment.methods:
                name = (method, student.label, seed)
                own, settings = settings_of[method]
                if method == "plain":
                    cell = add("supervised", student, seed, own, settings["training"])
                    entries.append(Entry(cell, "student", *name))
                elif method == "kd":
                    cell = add("kd", student, seed, own, settings["kd"], teacher=teacher)
                    entries.append(Entry(cell, "kd", *name))
                else:
                    start = {"teacher": teacher}
                    first = add("stage1", student, seed, own, settings["stage1"], **start)
                    start["initial"] = first
                    second = add("stage2", student, seed, own, settings["stage2"], **start)
                    entries.append(Entry(first, "stage1", *name))
                    entries.append(Entry(second, "stage2", *name))
    return Plan(experiment, cells, tuple(entries))


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """`field: old -> new` for every leaf in which two pieces of plain data differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b, where = old.get(key), new.get(key), f"{path}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{where}.")
        elif a != b:
            lines.append(f"{where}: {a!r} -> {b!r}")
    return lines
