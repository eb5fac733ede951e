"""Which trained network is meant: one of an experiment, a cell, a file, or one that MLflow has."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.common.errors import UserError, nearest
from harness.common.metrics import ACCURACY
from harness.experiment.file import EXPERIMENTS, experiment_file
from harness.experiment.tasks import ALL
from harness.methods import get_method
from harness.methods.base import TEACHER
from harness.plan import Plan, TableEntry
from harness.store import CellDir, Store
from harness.trained.model import WEIGHTS_FILE, TrainedModel, model_of, read_model

REGISTERED = "models:/"


@dataclass(frozen=True)
class Choice:
    """Of an experiment's trainings, one: None leaves open what there is only one of.

    student: label of the network, as "wrn-10-1". method: as in the experiment file, or "teacher".
    seed: by default the experiment's first. overlap, shots: of its tasks.
    """

    student: str | None = None
    method: str | None = None
    seed: int | None = None
    overlap: int | str | None = None
    shots: int | str | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


def load(
    source: str | Path, choice: Choice, store: Path, changes: Sequence[str] = ()
) -> TrainedModel:
    """
    Args:
        source: an experiment's file or name; the fingerprint of a cell in the store, or its first
            digits; a model.pt or a cell's folder; or models:/NAME@ALIAS of MLflow's registry.
        choice: which training of an experiment.
        changes: to the experiment, as behind `--set`.

    Raises:
        UserError: there is nothing like it, or not yet, or more than one.
    """
    text, path = str(source), Path(source)
    if (file := experiment_file(text)) is not None:
        return of_cell(_chosen(file, choice, store, list(changes)))
    opened: Callable[[], TrainedModel]
    if text.startswith(REGISTERED):
        opened = partial(_of_registry, text)
    elif (path / "cell.json").is_file():
        opened = partial(of_cell, CellDir(path))
    elif path.suffix in (".pt", ".pth"):
        opened = partial(read_model, path)
    elif re.fullmatch(r"[0-9a-f]{6,64}", text):
        opened = partial(_by_digits, text, store)
    else:
        names = {p.stem for p in EXPERIMENTS.glob("*.yaml")}
        raise UserError(
            f"MODEL: {text!r} is no experiment{nearest(text, names) if names else ''}, nor a "
            "cell's fingerprint, a model.pt or models:/NAME@ALIAS"
        )
    if choice.given or changes:
        field = next(iter(choice.given), "changes")
        raise UserError(f"{field}: chooses among an experiment's trainings; name an experiment")
    return opened()


def _chosen(file: Path, choice: Choice, store: Path, changes: list[str]) -> CellDir:
    from harness.experiment.file import read
    from harness.run.grid import plan_of
    from harness.track.registry import resolve_teacher

    plan = plan_of(read(file, changes, resolve_teacher))
    entry = choose(plan, choice)
    directory = Store(store).directory(entry.fingerprint)
    if not directory.is_done:
        raise UserError(
            f"MODEL: {entry.name} is not trained in {store}; `harness run {file}` trains it, or "
            "name the store that has it"
        )
    return directory


def choose(plan: Plan, choice: Choice) -> TableEntry:
    """The one entry that is meant, in the stage that gives a method's result.

    Raises:
        UserError: there is none, or which of several is open; the line names what there is.
    """
    finals = [
        e for e in plan.entries if e.method == TEACHER or e.stage == get_method(e.method).final.name
    ]
    found = [e for e in finals if plan.cells[e.fingerprint].metric == ACCURACY]  # a classifier
    for name, wanted in choice.given.items():
        values = list(dict.fromkeys(str(_values(e)[name]) for e in found))
        found = [e for e in found if str(_values(e)[name]) == str(wanted)]
        if not found:
            raise UserError(f"{name}: no training of {wanted!r}; there are {', '.join(values)}")
    if choice.seed is None:
        first = found[0].seed
        found = [e for e in found if e.seed == first]
    for name in ("method", "student", "overlap", "shots"):
        values = list(dict.fromkeys(str(_values(e)[name]) for e in found))
        if len(values) > 1:
            raise UserError(f"{name}: which one? choose of {', '.join(values)}")
    return found[0]


def _values(entry: TableEntry) -> dict[str, Any]:
    of_task = {name: entry.dimensions.get(name, ALL) for name in ("overlap", "shots")}
    return {"method": entry.method, "student": entry.student, "seed": entry.seed, **of_task}


def _by_digits(text: str, store: Path) -> TrainedModel:
    found = [cell for cell in Store(store).all() if cell.path.name.startswith(text)]
    if len(found) != 1:
        raise UserError(
            f"MODEL: {len(found) or 'no'} cells in {store} begin with {text}; "
            + ("write more of its digits" if found else "name the store that has it")
        )
    if not found[0].is_done:
        raise UserError(f"MODEL: the cell {text} is not trained yet; run its experiment first")
    return of_cell(found[0])


def of_cell(directory: CellDir) -> TrainedModel:
    """
    Raises:
        UserError: it is not trained; or it is older than files that say what they are of, and its
            data are not here.
    """
    from harness.train.cell import dataset_of
    from harness.train.checkpoint import about, from_bytes

    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"MODEL: the cell {directory.path} has no model.pt; it is not trained yet")
    content = from_bytes(path.read_bytes(), path)
    if "about" not in content:
        cell = directory.cell
        config, data = cell.config, dataset_of(directory, cell.config)
        content["about"] = about(config.network, data, config.data.digest, cell.metric == ACCURACY)
    return model_of(content, path)


def _of_registry(uri: str) -> TrainedModel:
    from harness.track.registry import download_model

    with tempfile.TemporaryDirectory() as folder:
        path = download_model(uri, Path(folder), "MODEL") / WEIGHTS_FILE
        if not path.is_file():
            raise UserError(
                f"MODEL: {uri} holds no {WEIGHTS_FILE}, as the harness registers its teachers; "
                "`mlflow.pytorch.load_model` may read it"
            )
        return read_model(path)
