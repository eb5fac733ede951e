"""Finding a trained network: in an experiment, a cell, a file, or MLflow's registry."""

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
from harness.experiment.file import EXPERIMENTS, experiment_file, is_registered
from harness.experiment.tasks import ALL
from harness.methods import get_method
from harness.methods.base import TEACHER
from harness.plan import Plan, TableEntry
from harness.store import CellDir, Store
from harness.store.cell_files import read_bytes
from harness.trained.model import WEIGHTS_FILE, TrainedModel, model_of, read_model


@dataclass(frozen=True)
class TrainingFilter:
    """Selects one of an experiment's trainings. Fields with a single possible value may be None.

    Attributes:
        student: Label of the network, as "wrn-10-1", or of a pair, as "wrn-16-2>wrn-10-1".
        method: As in the experiment file, or "teacher".
        seed: By default the experiment's first.
        overlap: The overlap of the task.
        shots: The shots of the task.
    """

    student: str | None = None
    method: str | None = None
    seed: int | None = None
    overlap: int | str | None = None
    shots: int | str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


def load(
    source: str | Path, choice: TrainingFilter, store: Path, changes: Sequence[str] = ()
) -> TrainedModel:
    """Load a trained network.

    Args:
        source: The file or name of an experiment; the fingerprint of a cell in the store, or its
            first digits; a model.pt or a cell's folder; or models:/NAME@ALIAS of MLflow's registry.
        choice: Which training of an experiment.
        store: The folder of the trained cells.
        changes: Changes to the experiment, as for `--set`.

    Raises:
        UserError: There is no such network, it is not trained yet, or there is more than one.
    """
    text, path = str(source), Path(source)
    if (file := experiment_file(text)) is not None:
        return from_cell(_chosen(file, choice, store, list(changes)))
    load_it: Callable[[], TrainedModel]
    if is_registered(text):
        load_it = partial(_from_registry, text)
    elif (path / "cell.json").is_file():
        load_it = partial(from_cell, CellDir(path))
    elif path.suffix in (".pt", ".pth"):
        load_it = partial(read_model, path)
    elif re.fullmatch(r"[0-9a-f]{6,64}", text):
        load_it = partial(_from_fingerprint, text, store)
    else:
        names = {p.stem for p in EXPERIMENTS.glob("*.yaml")}
        raise UserError(
            f"MODEL: {text!r} is no experiment{nearest(text, names) if names else ''}, nor a "
            "cell's fingerprint, a model.pt or models:/NAME@ALIAS"
        )
    if choice.given or changes:
        field = next(iter(choice.given), "changes")
        raise UserError(f"{field}: chooses among an experiment's trainings; name an experiment")
    return load_it()


def _chosen(file: Path, choice: TrainingFilter, store: Path, changes: list[str]) -> CellDir:
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


def choose(plan: Plan, choice: TrainingFilter) -> TableEntry:
    """Return the entry that is selected, in the stage that gives a method's result.

    Raises:
        UserError: There is none, or more than one; the message lists them.
    """
    finals = [
        e for e in plan.entries if e.method == TEACHER or e.stage == get_method(e.method).final.name
    ]
    entries = [e for e in finals if plan.cells[e.fingerprint].metric == ACCURACY]  # a classifier
    for name, value in choice.given.items():
        values = list(dict.fromkeys(str(_values(e)[name]) for e in entries))
        entries = [e for e in entries if str(_values(e)[name]) == str(value)]
        if not entries:
            raise UserError(f"{name}: no training of {value!r}; there are {', '.join(values)}")
    if choice.seed is None:
        first = entries[0].seed
        entries = [e for e in entries if e.seed == first]
    for name in ("method", "student", "overlap", "shots"):
        values = list(dict.fromkeys(str(_values(e)[name]) for e in entries))
        if len(values) > 1:
            raise UserError(f"{name}: which one? choose one of {', '.join(values)}")
    return entries[0]


def _values(entry: TableEntry) -> dict[str, Any]:
    task = {name: entry.dimensions.get(name, ALL) for name in ("overlap", "shots")}
    return {"method": entry.method, "student": entry.networks, "seed": entry.seed, **task}


def _from_fingerprint(text: str, store: Path) -> TrainedModel:
    cells = [cell for cell in Store(store).all() if cell.path.name.startswith(text)]
    if len(cells) != 1:
        raise UserError(
            f"MODEL: {len(cells) or 'no'} cells in {store} begin with {text}; "
            + ("write more of its digits" if cells else "name the store that has it")
        )
    if not cells[0].is_done:
        raise UserError(f"MODEL: the cell {text} is not trained yet; run its experiment first")
    return from_cell(cells[0])


def from_cell(directory: CellDir) -> TrainedModel:
    """Load the network of a cell.

    Raises:
        UserError: It is not trained, or its file is so old that it lacks a description of the
            network and the cell's data are not here.
    """
    from harness.train.checkpoint import about, from_bytes
    from harness.train.data_request import load_dataset

    path = directory / WEIGHTS_FILE
    try:
        content = from_bytes(read_bytes(path), path)
    except FileNotFoundError:
        raise UserError(
            f"MODEL: the cell {directory.path} has no model.pt; it is not trained yet"
        ) from None
    if "about" not in content:
        cell = directory.cell
        config, data = cell.config, load_dataset(directory, cell.config)
        content["about"] = about(config.network, data, config.data.digest, cell.metric == ACCURACY)
    model = model_of(content, path)
    model.cell = directory
    return model


def _from_registry(uri: str) -> TrainedModel:
    from harness.track.registry import download_model

    with tempfile.TemporaryDirectory() as folder:
        path = download_model(uri, Path(folder), "MODEL") / WEIGHTS_FILE
        if not path.is_file():
            raise UserError(
                f"MODEL: {uri} holds no {WEIGHTS_FILE}, as the harness registers its teachers; "
                "`mlflow.pytorch.load_model` may read it"
            )
        return read_model(path)
