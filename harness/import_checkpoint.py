"""`harness import-checkpoint`: a published file becomes a finished cell, usable as a teacher.

Published checkpoints are pickled dicts with `state_dict`, `validating_accuracy` and `epoch`. They
are read with weights_only, so a hostile pickle runs nothing; the network's arguments follow from
the shapes; the accuracy is measured here and shown beside the file's own claim.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.cell import data_summary, workers_wanted
from harness.data import load
from harness.data.placement import on_device
from harness.errors import UserError
from harness.networks import NETWORKS
from harness.networks.base import Network
from harness.plan import make_plan
from harness.provenance import code_version, software
from harness.spec import Experiment
from harness.store import Store, write_atomically
from harness.train.checkpoint import build_network, to_bytes
from harness.train.device import describe, resolve_device
from harness.train.evaluate import accuracy

# What a measured accuracy is often stored as; harmless, but weights_only must be told so.
NUMPY_SCALARS = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
]


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """(state_dict, the file's claims, SHA-256 of the file).

    Raises:
        UserError: missing, unreadable, holding more than weights, or without a state_dict.
    """
    if not path.is_file():
        raise UserError(f"FILE: no such checkpoint {path}; check the path")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "Unsupported" in str(error) or "WeightsUnpickler" in str(error):
            reason = "it holds Python objects beside weights, and was not run"
        raise UserError(
            f"FILE: {path} is refused ({reason[:120]}); save it as a dict with `state_dict`"
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"FILE: {path} has no `state_dict` of tensors; the releases' files do")
    claims = {
        key: float(content[key])
        for key in ("validating_accuracy", "epoch")
        if isinstance(content.get(key), int | float | np.generic | Tensor)
    }
    return {k.removeprefix("module."): v for k, v in state.items()}, claims, digest


def infer_network(state: dict[str, Tensor]) -> dict[str, Any]:
    """The `network` entry that these names and shapes belong to.

    Raises:
        UserError: no known network has these names.
    """

    def blocks(prefix: str) -> int:
        return len({k.split(".")[1] for k in state if k.startswith(prefix + ".")})

    if "bn.weight" in state and "layer1.0.conv1.weight" in state:
        width = state["layer1.0.conv1.weight"].shape[0] // 16
        return {"network": "wide_resnet", "depth": 6 * blocks("layer1") + 4, "width": width}
    if "layers.0.conv2.weight" in state and "conv1.weight" in state:
        return {"network": "mobile_net", "ca": round(state["conv1.weight"].shape[0] / 32, 4)}
    if "layer1.0.conv1.weight" in state and "bn1.weight" in state:
        return {"network": "resnet", "depth": 6 * blocks("layer1") + 2}
    raise UserError(
        f"FILE: its names ({', '.join(list(state)[:3])}, ...) are those of no network here; "
        "expected wide_resnet, mobile_net or resnet"
    )


def checked_model(state: dict[str, Tensor], network: dict[str, Any], n_classes: int) -> Network:
    """
    Raises:
        UserError: a name or a shape differs from the network's; the message names the first.
    """
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else 0
    if classes != n_classes:
        raise UserError(
            f"FILE: it has {classes} classes, the experiment's data set {n_classes}; "
            "name an experiment on its data set"
        )
    model = build_network(network, n_classes)
    expected = model.state_dict()
    for name in [*expected, *state]:
        ours = tuple(expected[name].shape) if name in expected else None
        theirs = tuple(state[name].shape) if name in state else None
        if ours != theirs:
            raise UserError(
                f"FILE: {name}: expected {ours or 'nothing'} for {network}, found "
                f"{theirs or 'nothing'}; the file is of another or a changed network"
            )
    model.load_state_dict(state)
    return model


def import_checkpoint(path: Path, experiment: Experiment, root: Path, device_name: str) -> str:
    """Make the cell; what to tell the user.

    Raises:
        UserError: see `read_file`, `infer_network`, `checked_model`; nothing is written then.
    """
    device = resolve_device(device_name)
    state, claims, digest = read_file(path)
    network = infer_network(state)
    dataset = load(experiment.dataset)
    model = checked_model(state, network, len(dataset.class_names)).to(device)

    measured = {
        part: accuracy(model, on_device(dataset, images, device, workers_wanted()))
        for part in ("validation", "test")
        if (images := getattr(dataset, part)) is not None
    }
    plan = make_plan(with_teacher(experiment, network, digest), dataset)
    fingerprint, cell = next((f, c) for f, c in plan.cells.items() if c.kind == "imported")
    store = Store(root)
    store.create()
    directory = store.prepare(cell, experiment.dataset.model_dump(mode="json"))
    version = code_version()
    with directory.lease():
        if not directory.is_done:
            data = to_bytes({"state_dict": state, **claims})
            directory.append("start", device=describe(device), **version, **software())
            write_atomically(directory / "model.pt", data)
            directory.append("end", selected_epoch=0)
            value = measured.get("test")
            forms = (
                {} if value is None else dict.fromkeys(("last", "selected", "best_on_test"), value)
            )
            directory.finish(
                {
                    "results": {"accuracy": forms} if forms else {},
                    "selected_epoch": 0,
                    "epochs": 0,
                    "seconds": 0.0,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "model_sha256": hashlib.sha256(data).hexdigest(),
                    "data": data_summary(dataset, cell.spec),
                    "device": describe(device),
                    "attempts": 1,
                    "commits": [str(version["commit"])],
                    "dirty": version["dirty"],
                    "imported": {"file": path.name, "sha256": digest, "claims": claims},
                    **software(),
                }
            )
    shown = ", ".join(f"{100 * v:.2f} % on {part}" for part, v in measured.items())
    claim = claims.get("validating_accuracy")
    own = "no accuracy" if claim is None else f"{100 * claim if claim <= 1 else claim:.2f} %"
    options = ", ".join(f"{k}: {v}" for k, v in network.items())
    return (
        f"{path.name}: {options}\n"
        f"measured here: {shown}; the file claims {own}\n"
        f"cell {fingerprint[:16]} in {root}; to use it, write in the experiment:\n"
        f"teacher: {{{options}}}\n"
        f"teacher_checkpoint: {digest}"
    )


def with_teacher(experiment: Experiment, network: dict[str, Any], digest: str) -> Experiment:
    """The experiment with this checkpoint as its teacher, whatever teacher it names."""
    teacher = NETWORKS[network["network"]][0].model_validate(network)
    methods = experiment.methods if experiment.methods != ("plain",) else ("kd",)
    return experiment.model_copy(
        update={"teacher": teacher, "teacher_checkpoint": digest, "methods": methods}
    )
