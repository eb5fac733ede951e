"""`harness import-checkpoint`: a published file becomes a finished cell, usable as a teacher.

Published checkpoints are pickled dicts with `state_dict`, `validating_accuracy` and `epoch`
(harness.networks.published_file reads these and others). The network's arguments follow from the
shapes; the accuracy is measured here and shown beside the file's own claim.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from harness.cell import network_options
from harness.common.errors import UserError
from harness.common.metrics import ACCURACY, SELECTION_RULES
from harness.common.provenance import UNKNOWN, code_version, software
from harness.data import Dataset, load
from harness.data.placement import on_device
from harness.data.views import apply
from harness.experiment.experiment import Experiment
from harness.networks import NETWORKS, NetworkOptions
from harness.networks.base import Network
from harness.networks.foreign import ForeignOptions
from harness.networks.own import OwnOptions
from harness.networks.published_file import first_difference, read_file
from harness.plan import imported_cell, task_views, whole_data
from harness.store import Store
from harness.store.files import write_atomically
from harness.store.manifest import CellOptions, Manifest
from harness.train.cell import data_summary
from harness.train.checkpoint import about, to_bytes
from harness.train.device import describe, resolve_device
from harness.train.evaluate import accuracy


def infer_network(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the `network` entry of an experiment whose weights have these names and shapes.

    Raises:
        UserError: No known network has these names.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for options in NETWORKS.values():
        fields = options.fields_of_checkpoint(shapes)
        with contextlib.suppress(ValidationError):  # shapes that no network has
            if fields is not None:
                options.model_validate(fields)
                return fields
    known = [name for name, of in NETWORKS.items() if not issubclass(of, ForeignOptions)]
    raise UserError(
        f"FILE: its names ({', '.join(list(state)[:3])}, ...) are those of no network here "
        f"({', '.join(known)}); one of another library has to be the experiment's teacher"
    )


def _rows(state: dict[str, Tensor], name: str) -> int:
    """Return the first size of a tensor; 0 if it is a single number or missing."""
    return next(iter(state[name].shape), 0) if name in state else 0


def checked_model(state: dict[str, Tensor], network: dict[str, Any], n_classes: int) -> Network:
    """Build a network and load weights into it.

    Raises:
        UserError: A name or a shape differs from the network's; the message names the first.
    """
    model = network_options(network).build(n_classes)
    classes = _rows(state, f"{model.head}.weight")
    if classes != n_classes:
        raise UserError(
            f"FILE: it has {classes} classes, the experiment's teacher {n_classes}; name an "
            "experiment on its data set, whose tasks.classes are as many"
        )
    if difference := first_difference(model.state_dict(), state):
        raise UserError(
            f"FILE: {difference}; the file is of another network than {network}, or a changed one"
        )
    model.load_state_dict(state)
    return model


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        path: Where it is.
        state: Its weights.
        claims: What it says about itself.
        digest: Its SHA-256.
        network: The `network` entry that fits its names and shapes.
    """

    path: Path
    state: dict[str, Tensor]
    claims: dict[str, Any]
    digest: str
    network: dict[str, Any]


def read_published(path: Path, teacher: NetworkOptions | None = None) -> Published:
    """Read a published file.

    Args:
        path: The file.
        teacher: The network of the file, if it is one of a library or the user's own; those of
            other families are known by their weights.

    Raises:
        UserError: See `read_file` and `infer_network`.
    """
    state, claims, digest = read_file(path)
    if not isinstance(teacher, ForeignOptions):
        return Published(path, state, claims, digest, infer_network(state))
    entry = {"network": teacher.network, **teacher.model_dump(mode="json", exclude_defaults=True)}
    entry.pop("weights", None)
    if isinstance(teacher, OwnOptions):
        entry["path"] = f"{teacher.path.file.path}:{teacher.path.name}"
    return Published(path, state, claims, digest, entry)


def import_checkpoint(path: Path, experiment: Experiment, root: Path, device_name: str) -> str:
    """Import a published file as a cell, and return the text for the user.

    Raises:
        UserError: See `read_published` and `add_teacher`; nothing is written then.
    """
    resolve_device(device_name)
    file = read_published(path, experiment.teacher)
    dataset = load(experiment.dataset, check_pixels=True)
    return add_teacher(file, experiment, dataset, Store(root), device_name)


def add_teacher(
    file: Published, experiment: Experiment, dataset: Dataset, store: Store, device_name: str
) -> str:
    """Put a published file into the store as a finished teacher cell.

    It becomes the teacher of experiments on this data set with these classes for the teacher,
    whatever teacher `experiment` names.

    Args:
        file: The published file.
        experiment: An experiment on its data.
        dataset: The whole data set; the file is measured on the teacher's classes.
        store: The store.
        device_name: The device to measure on.

    Returns:
        The text for the user.

    Raises:
        UserError: See `checked_model` and `task_views`; nothing is written then.
    """
    device, network = resolve_device(device_name), file.network
    view = task_views(experiment, dataset).teacher()
    seen = apply(dataset, view)
    model = checked_model(file.state, network, len(seen.class_names)).to(device)
    model.expect(seen.mean, seen.std)
    measured = {
        part: accuracy(model, on_device(seen, images, device, n_workers=0))
        for part in ("validation", "test")
        if (images := getattr(seen, part)) is not None
    }
    cell = imported_cell(
        NETWORKS[network["network"]].model_validate(network),
        file.digest,
        whole_data(experiment.dataset, dataset).seen_through(view),
    )
    store.create()
    directory = store.prepare(cell, CellOptions.on_this_machine(experiment))
    version = code_version()
    with directory.lease():
        if not directory.is_done:
            content = {
                "state_dict": file.state,
                **file.claims,
                "about": about(network_options(network), seen, dataset.digest),
            }
            data = to_bytes(content)
            directory.append("start", device=describe(device), **version, **software())
            write_atomically(directory / "model.pt", data)
            directory.append("end", selected_epoch=0)
            value = measured.get("test")
            results = {} if value is None else {ACCURACY: dict.fromkeys(SELECTION_RULES, value)}
            versions = software()
            directory.finish(
                Manifest(
                    results=results,
                    selected_epoch=0,
                    epochs=0,
                    seconds=0.0,
                    parameters=sum(p.numel() for p in model.parameters()),
                    model_sha256=hashlib.sha256(data).hexdigest(),
                    data=data_summary(seen, cell.config),
                    device=describe(device),
                    attempts=1,
                    commits=[version["commit"] or UNKNOWN],
                    dirty=version["dirty"],
                    imported={
                        "file": os.fsencode(file.path.name).decode("utf-8", "replace"),
                        "sha256": file.digest,
                        "claims": file.claims,
                    },
                    python=versions["python"],
                    torch=versions["torch"],
                )
            )
    accuracies = ", ".join(f"{100 * v:.2f} % on {part}" for part, v in measured.items())
    claim = file.claims.get("validating_accuracy")
    claimed = "no accuracy" if claim is None else f"{100 * claim if claim <= 1 else claim:.2f} %"
    options = ", ".join(f"{k}: {v}" for k, v in network.items())
    return (
        f"{file.path.name}: {options}\n"
        f"measured here: {accuracies}; the file claims {claimed}\n"
        f"cell {directory.path.name} in {store.root}; to use it, write in the experiment"
        f"{', in each pair with this teacher' if experiment.pairs else ''}:\n"
        f"teacher: {{{options}}}\n"
        f"teacher_checkpoint: {file.digest}"
    )
