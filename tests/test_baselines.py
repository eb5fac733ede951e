"""Losses of other methods against public implementations: baselines.npz of tests/golden/README.md.

`pytest tests/test_baselines.py --golden DIR` tests against another folder of the same format.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden import TOLERANCE, arrays, relative_error
from torch import Tensor, nn

from harness.distill import (
    CrdMemory,
    VidRegressor,
    at_loss,
    dkd_loss,
    fitnet_loss,
    fitnet_regressor,
    kd_divergence,
    nst_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    rkd_loss,
    sp_loss,
    standardised_kd_loss,
    vid_loss,
)

FILE = "baselines.npz"
# A number in the name of a loss, as in kd_T4 or dkd_a1_b0.5_T4.
SETTING = re.compile(r"([a-zA-Z])(\d+(?:\.\d+)?)")


def losses_in(folder: Path) -> list[tuple[str, str]]:
    """(case, loss) of all losses in the file; a case must have every one of its losses."""
    file = folder / FILE
    if not file.is_file() or not (found := cases(arrays(file))):
        raise pytest.UsageError(f"--golden: no {FILE} with losses in {folder.absolute()}")
    for case, losses in found.items():
        missing = expected(arrays(file), case) - {without_settings(loss) for loss in losses}
        if missing:
            raise pytest.UsageError(f"--golden: {FILE}: {case} has no {', '.join(sorted(missing))}")
    return [(case, loss) for case, losses in found.items() for loss in losses]


def cases(numbers: dict[str, Tensor]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in numbers:
        if match := re.fullmatch(r"(c\d+)_(.+)_loss", key):
            found.setdefault(match[1], []).append(match[2])
    return found


def without_settings(loss: str) -> str:
    return re.sub(r"(_[a-zA-Z]\d+(\.\d+)?)+$", "", loss)


def expected(numbers: dict[str, Tensor], case: str) -> set[str]:
    maps = range(int(numbers[f"{case}_n_maps"]))
    same = [i for i in maps if numbers[f"{case}_student_map{i}"].shape[2:]
            == numbers[f"{case}_teacher_map{i}"].shape[2:]]  # fmt: skip
    return (
        {"kd", "kd_standardised", "dkd", "rkd", "rkd_distance", "rkd_angle", "pkt", "sp"}
        | {f"{name}{i}" for i in maps for name in ("at_", "nst_", "vid")}
        | {f"fitnet{i}" for i in same}
        | {"crd_step1", "crd_step2"}
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a loss of a case: a missing or empty file is an error, not a pass."""
    if "loss_name" in metafunc.fixturenames:
        found = losses_in(metafunc.config.getoption("--golden"))
        found = [(case, name) for case, name in found if not name.startswith("crd_")]
        metafunc.parametrize(("case", "loss_name"), found, ids=["-".join(f) for f in found])
    elif "case" in metafunc.fixturenames:
        metafunc.parametrize("case", dict(losses_in(metafunc.config.getoption("--golden"))))


@pytest.fixture
def g(golden: Path, case: str) -> dict[str, Tensor]:
    """The numbers of one case."""
    return {
        key.removeprefix(f"{case}_"): value
        for key, value in arrays(golden / FILE).items()
        if key.startswith(f"{case}_")
    }


def parameters_of(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A module's state from the numbers that are called `prefix`NAME."""
    results = ("loss", "grad_", "step")
    return {
        key.removeprefix(prefix): value
        for key, value in g.items()
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(results)
    }


def compare(g: dict[str, Tensor], name: str, loss: Tensor, leaves: dict[str, Tensor]) -> None:
    """The loss, and every gradient that the file has of it."""
    assert relative_error(loss.detach(), g[f"{name}_loss"]) < TOLERANCE
    wanted = [k.removeprefix(f"{name}_grad_") for k in g if k.startswith(f"{name}_grad_")]
    assert wanted
    gradients = torch.autograd.grad(loss, [leaves[key] for key in wanted])
    for key, gradient in zip(wanted, gradients, strict=True):
        assert relative_error(gradient, g[f"{name}_grad_{key}"]) < TOLERANCE, key


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def test_baseline(g: dict[str, Tensor], loss_name: str) -> None:
    base = without_settings(loss_name)
    settings = {k: float(v) for k, v in SETTING.findall(loss_name.removeprefix(base))}
    logits, embedding = leaf(g["student_logits"]), leaf(g["student_embedding"])
    both_logits, both = (logits, g["teacher_logits"]), (embedding, g["teacher_embedding"])
    number = re.search(r"\d+$", base)
    i = int(number[0]) if number else int(g["n_maps"]) - 1
    student_map, teacher_map = leaf(g[f"student_map{i}"]), g[f"teacher_map{i}"]
    maps = (student_map, teacher_map)
    channels = student_map.shape[1], teacher_map.shape[1]
    state = parameters_of(g, f"{loss_name}_")
    module = nn.Module()
    match re.sub(r"_?\d+$", "", base):
        case "kd":
            loss = kd_divergence(*both_logits, temperature=settings["T"])
        case "kd_standardised":
            loss = standardised_kd_loss(*both_logits, temperature=settings["T"])
        case "dkd":
            loss = dkd_loss(
                *both_logits,
                g["labels"],
                alpha=settings["a"],
                beta=settings["b"],
                temperature=settings["T"],
            )
        case "rkd":
            loss = rkd_loss(*both, distance=settings["d"], angle=settings["a"])
        case "rkd_distance":
            loss = rkd_distance_loss(*both)
        case "rkd_angle":
            loss = rkd_angle_loss(*both)
        case "pkt":
            loss = pkt_loss(*both)
        case "at":
            loss = at_loss(*maps)
        case "nst":
            loss = nst_loss(*maps)
        case "sp":
            loss = sp_loss(*maps)
        case "vid":
            module = regressor = VidRegressor(*channels).double()
            regressor.load_state_dict(state)
            loss = vid_loss(*maps, regressor)
        case "fitnet":
            module = convolution = fitnet_regressor(*channels).double()
            convolution.load_state_dict(state)
            loss = fitnet_loss(*maps, convolution)
        case other:
            pytest.fail(f"{FILE}: unknown loss {other}")
    leaves = dict(module.named_parameters()) | {
        "student_logits": logits,
        "student_embedding": embedding,
        "student_map": student_map,
    }
    compare(g, loss_name, loss, leaves)


def test_crd(g: dict[str, Tensor]) -> None:
    """All steps in a row: losses, gradients, normalisers, and both memories after each."""
    state = parameters_of(g, "crd_")
    n_images, features = state["memory_v1"].shape
    _, temperature, _, _, momentum = g["crd_step1_params"].tolist()
    memory = CrdMemory(
        g["student_embedding"].shape[1],
        g["teacher_embedding"].shape[1],
        n_images,
        features=features,
        temperature=temperature,
        momentum=momentum,
    ).double()
    left = memory.load_state_dict(state, strict=False)
    assert left.missing_keys == ["z1", "z2"] and not left.unexpected_keys
    steps = sorted(k.removesuffix("_loss") for k in g if re.fullmatch(r"crd_step\d+_loss", k))
    for step in steps:
        student = leaf(g[f"{step}_student_embedding"])
        loss = memory(
            student, g[f"{step}_teacher_embedding"], g[f"{step}_index"], g[f"{step}_contrast_index"]
        )
        leaves = dict(memory.named_parameters()) | {"student_embedding": student}
        compare(g, step, loss, leaves)
        assert len([k for k in g if k.startswith(f"{step}_grad_")]) == len(leaves)
        for i, z in enumerate((memory.z1, memory.z2)):
            assert relative_error(z, g[f"{step}_params"][2 + i]) < TOLERANCE
        for name in ("memory_v1", "memory_v2"):
            ours = memory.get_buffer(name)
            assert relative_error(ours, g[f"{step}_{name}_after"]) < TOLERANCE


def test_a_missing_or_empty_file_is_an_error(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match=f"no {FILE} with losses in"):
        losses_in(tmp_path)
    np.savez(tmp_path / FILE)
    with pytest.raises(pytest.UsageError, match=f"no {FILE} with losses in"):
        losses_in(tmp_path)
    arrays.cache_clear()
    with np.load(golden / FILE) as numbers:
        left = {k: numbers[k] for k in numbers.files if not k.endswith("vid1_loss")}
    np.savez(tmp_path / FILE, **left)
    with pytest.raises(pytest.UsageError, match="has no vid1"):
        losses_in(tmp_path)
