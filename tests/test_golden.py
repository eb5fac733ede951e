"""The published code's numbers, as described in tests/golden/README.md.

`pytest tests/test_golden.py --golden DIR` tests against another folder of the same format.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.distill.centers import class_centers
from harness.distill.ncm import ncm_accuracy
from harness.distill.relations import nearest_negative, same_class_pairs, unit_distances
from harness.distill.stage1 import stage1_loss
from harness.distill.stage2 import instance_weights, local_teaching_loss, teaching_loss
from harness.networks import build
from harness.networks.base import Network
from harness.train.schedule import cosine_lr, multistep_lr

TOLERANCE = 1e-9

# Relation -> (key of its loss and gradient, key of its number of relations).
STAGE1 = {
    "tuple": ("tuple_2021", "n_tuples"),
    "triplet": ("triplet_2020_12", "n_triplets"),
    "one-negative": ("triplet_2020_06", None),
}
# Key of the loss and gradient -> arguments of teaching_loss.
STAGE2: dict[str, dict[str, Any]] = {
    "stage2_global_2021": {"tau_on": "both", "weighted": False},
    "stage2_local_2020_06": {"tau_on": "both", "weighted": False},
    "stage2_teacher_tau_2022": {"tau_on": "teacher", "weighted": False},
    "stage2_weighted_2022": {"tau_on": "teacher", "weighted": True},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a file, an architecture, a schedule: an empty folder is an error, not a pass."""
    folder: Path = metafunc.config.getoption("--golden")
    for pattern in ("losses_*.npz", "networks.json", "networks.npz", "schedules.json"):
        if not list(folder.glob(pattern)):
            raise pytest.UsageError(f"--golden: no {pattern} in {folder.absolute()}")
    if "losses_file" in metafunc.fixturenames:
        files = sorted(folder.glob("losses_*.npz"))
        metafunc.parametrize("losses_file", files, ids=[f.stem for f in files])
    if "architecture" in metafunc.fixturenames:
        architectures = json.loads((folder / "networks.json").read_text())["architectures"]
        metafunc.parametrize("architecture", architectures, ids=[a["tag"] for a in architectures])
    if "schedule" in metafunc.fixturenames:
        schedules = json.loads((folder / "schedules.json").read_text())
        metafunc.parametrize("schedule", schedules.items(), ids=schedules)


@cache
def arrays(file: Path) -> dict[str, Tensor]:
    """The file's arrays, floating ones in float64."""
    with np.load(file) as numbers:
        tensors = {key: torch.from_numpy(numbers[key]) for key in numbers.files}
    return {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute reference (which may be 0: then only
    0 is near it); shapes must be equal."""
    assert ours.shape == reference.shape
    scale = reference.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float((ours - reference).abs().max() / scale)


# Stage 1


@pytest.mark.parametrize("relation", STAGE1)
def test_stage1(losses_file: Path, relation: str) -> None:
    g = arrays(losses_file)
    student = g["student_embedding"].clone().requires_grad_()
    loss, n = stage1_loss(
        student,
        g["teacher_embedding"],
        g["labels"],
        relation=relation,
        tau1=g["tau1"].item(),
        margin=g["margin"].item(),
        negatives="all",
        weight=None,
    )
    loss.backward()
    key, count = STAGE1[relation]
    assert n == (g[count] if count else len(g[f"{key}_anchor"]))
    assert relative_error(loss.detach(), g[f"{key}_loss"]) < TOLERANCE
    assert relative_error(student.grad, g[f"{key}_grad"]) < TOLERANCE


def test_one_negative(losses_file: Path) -> None:
    g = arrays(losses_file)
    distances = unit_distances(g["student_embedding"])
    anchor, positive = same_class_pairs(g["labels"])
    negative, found = nearest_negative(distances, g["labels"], anchor, positive)
    for name, ours in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        assert ours[found].tolist() == g[f"triplet_2020_06_{name}"].tolist()


# Stage 2


def test_global_centers(losses_file: Path) -> None:
    g = arrays(losses_file)
    ours = class_centers(g["center_embedding"], g["center_labels"], int(g["n_classes"]))
    assert relative_error(ours, g["global_centers"]) < TOLERANCE


@pytest.mark.parametrize("key", STAGE2)
def test_teaching_loss(losses_file: Path, key: str) -> None:
    g = arrays(losses_file)
    logits = g["student_logits"].clone().requires_grad_()
    loss = teaching_loss(
        logits,
        g["teacher_embedding"],
        g["labels"],
        None if "local" in key else g["global_centers"],
        tau2=g["tau2"].item(),
        lambd=g["lambd"].item(),
        teacher_logits=g["teacher_logits"],
        **STAGE2[key],
    )
    loss.backward()
    assert relative_error(loss.detach(), g[f"{key}_loss"]) < TOLERANCE
    assert relative_error(logits.grad, g[f"{key}_grad"]) < TOLERANCE


@pytest.mark.parametrize("epoch", [1, 41])
def test_local_teaching_loss(losses_file: Path, epoch: int) -> None:
    """The golden value includes `lambd`; the release's own weight stands in its place."""
    g = arrays(losses_file)
    loss = local_teaching_loss(
        g["student_logits"], g["teacher_embedding"], g["labels"], tau2=g["tau2"].item(), epoch=epoch
    )
    weight = {1: 1000.0, 41: 1000.0 * np.exp(-2.0)}[epoch]
    reference = g["stage2_local_2020_06_loss"] / g["lambd"] * weight
    assert relative_error(loss, reference) < TOLERANCE


def test_instance_weights(losses_file: Path) -> None:
    g = arrays(losses_file)
    assert relative_error(instance_weights(g["teacher_logits"]), g["instance_weights"]) < TOLERANCE


@pytest.mark.parametrize("source", ["eval", "train"])
def test_ncm(losses_file: Path, source: str) -> None:
    g = arrays(losses_file)
    centers = class_centers(
        g[f"ncm_{source}_embedding"], g[f"ncm_{source}_labels"], int(g["n_classes"])
    )
    accuracy = ncm_accuracy(g["ncm_eval_embedding"], g["ncm_eval_labels"], centers)
    assert accuracy.item() == g[f"ncm_{source}_centers_accuracy"].item()


# Networks


def built(architecture: dict[str, Any]) -> Network:
    return build(architecture["network"], architecture["n_classes"], **architecture["options"])


def fill(network: nn.Module, offset: float) -> None:
    """The README's deterministic weights."""
    for i, (name, entry) in enumerate(network.state_dict().items()):
        if not entry.is_floating_point():
            continue
        r = torch.arange(entry.numel(), dtype=torch.float64) * 0.6180339887498949
        r = ((r + 0.1375 * (i + 1) + offset) % 1).reshape(entry.shape)
        if name.endswith("running_var"):
            value = 0.5 + r
        elif name.endswith("running_mean"):
            value = 0.2 * (r - 0.5)
        elif entry.ndim == 1:
            value = 0.8 + 0.4 * r if name.endswith("weight") else 0.1 * (r - 0.5)
        else:
            value = 2 * (r - 0.5) * (3 / entry[0].numel()) ** 0.5
        entry.copy_(value)


def test_network_layout(architecture: dict[str, Any]) -> None:
    network = built(architecture)
    ours = [[name, list(entry.shape)] for name, entry in network.state_dict().items()]
    assert ours == architecture["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == architecture["n_parameters"]
    assert network.embedding_dim == architecture["embedding_dim"]


@torch.no_grad()
def test_network_outputs(architecture: dict[str, Any], golden: Path) -> None:
    numbers, tag = arrays(golden / "networks.npz"), architecture["tag"]
    x = numbers[f"input_{architecture['image_size']}"]
    network = built(architecture).double()
    fill(network, json.loads((golden / "networks.json").read_text())["fill_offset"])

    network.eval()
    embedding, logits = network.embed_and_classify(x)
    assert relative_error(embedding, numbers[f"{tag}_embedding"]) < TOLERANCE
    assert relative_error(logits, numbers[f"{tag}_logits"]) < TOLERANCE
    assert torch.equal(network(x), logits)
    assert torch.equal(network.embed(x), embedding)

    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert relative_error(network(x), numbers[f"{tag}_train_logits"]) < TOLERANCE
    after = network.state_dict()
    statistics = [k for k in numbers if k.startswith(f"{tag}_") and k.endswith("running_mean")]
    assert statistics
    for key in statistics:
        assert relative_error(after[key.removeprefix(f"{tag}_")], numbers[key]) < TOLERANCE


# Schedules


def test_schedule(schedule: tuple[str, list[float]]) -> None:
    name, reference = schedule
    epochs = range(len(reference))
    if name.startswith("stage1_cosine"):
        ours = [cosine_lr(epoch, len(reference), 0.1, 0.1) for epoch in epochs]
    else:
        assert name == "stage2_multistep"
        ours = [multistep_lr(epoch, 0.1, (100, 140, 180), 0.2) for epoch in epochs]
    assert ours == pytest.approx(reference, rel=TOLERANCE, abs=0)
