"""Properties of the losses after mining: stage 2, class centres, NCM, and classic KD."""

import doctest
import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness import distill
from harness.distill.centers import class_centers, class_sums
from harness.distill.kd import kd_loss
from harness.distill.ncm import ncm_accuracy
from harness.distill.stage1 import RELATIONS, stage1_loss
from harness.distill.stage2 import instance_weights, teaching_loss
from harness.networks import build

N_CLASSES = 12
STAGE1: dict[str, Any] = {"tau1": 4.0, "margin": 0.2, "negatives": "all", "weight": None}
KD = {"temperature": 4.0, "alpha": 0.9}


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def batch() -> dict[str, Any]:
    """20 images of 5 of the 12 classes; arguments of teaching_loss."""
    return {
        "student_logits": 3 * noise(20, N_CLASSES),
        "teacher_embedding": noise(20, 16, seed=1).relu(),
        "labels": torch.tensor([1, 4, 5, 8, 11]).repeat(4),
        "centers": class_centers(
            noise(60, 16, seed=2).relu(), torch.arange(60) % N_CLASSES, N_CLASSES
        ),
        "tau2": 2.0,
        "lambd": 10.0,
        "tau_on": "both",
        "weighted": False,
    }


def gradient_of(loss: Tensor, leaf: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


@pytest.mark.parametrize("name", distill.__all__)
def test_every_public_docstring_has_an_example_that_holds(name: str) -> None:
    public = getattr(distill, name)
    names = vars(sys.modules[public.__module__])
    (case,) = doctest.DocTestFinder(recurse=False).find(public, name, globs=dict(names))
    results = doctest.DocTestRunner().run(case)
    assert results.attempted and not results.failed


# Stage 1 in a network


@pytest.mark.parametrize("relation", RELATIONS)
def test_stage1_gives_fc_no_gradient(relation: str) -> None:
    torch.manual_seed(0)
    student = build("wide_resnet", 10, depth=10, width=1)
    teacher = build("resnet", 10, depth=8).eval()
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    embeddings = student.embed(x), teacher.embed(x)
    stage1_loss(*embeddings, labels, relation=relation, **STAGE1)[0].backward()
    for name, parameter in student.named_parameters():
        if name.startswith("fc."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any() or ".bias" in name, name
    assert all(p.grad is None for p in teacher.parameters())


# Stage 2


def looped_teaching_loss(b: dict[str, Any], tau_on: str, weights: Tensor) -> Tensor:
    """Image by image, over the sorted list of present classes."""
    present = sorted(set(b["labels"].tolist()))
    total = torch.tensor(0.0, dtype=torch.float64)
    for logits, embedding, w in zip(
        b["student_logits"], b["teacher_embedding"], weights, strict=True
    ):
        scores = torch.stack([(embedding * b["centers"][j]).sum() for j in present])
        q_t = (scores / b["tau2"]).exp()
        q_s = (logits[present] / (b["tau2"] if tau_on == "both" else 1)).exp()
        q_t, q_s = q_t / q_t.sum(), q_s / q_s.sum()
        total = total + w * (q_t * (q_t / q_s).log()).sum()
    return b["lambd"] * total / len(b["labels"])


@pytest.mark.parametrize("tau_on", ["both", "teacher"])
@pytest.mark.parametrize("weighted", [False, True])
def test_teaching_loss_is_its_definition(
    batch: dict[str, Any], tau_on: str, weighted: bool
) -> None:
    teacher_logits = noise(20, 7, seed=3)
    weights = torch.ones(20)
    if weighted:
        doubt = -teacher_logits.softmax(1).max(1).values.log()
        scaled = (doubt - doubt.min()) / (doubt.max() - doubt.min())
        weights = 2 / (1 + scaled.exp())
    batch |= {"tau_on": tau_on, "weighted": weighted}
    loss = teaching_loss(**batch, teacher_logits=teacher_logits)
    expected = looped_teaching_loss(batch, tau_on, weights)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("local", [False, True])
def test_absent_classes_take_no_part(batch: dict[str, Any], local: bool) -> None:
    if local:
        batch["centers"] = None
    absent = [0, 2, 3, 6, 7, 9, 10]
    logits = batch["student_logits"].requires_grad_()
    loss = teaching_loss(**batch)
    gradient = gradient_of(loss, logits)
    assert gradient.isfinite().all()
    assert (gradient[:, absent] == 0).all()
    assert (gradient[:, batch["labels"].unique()] != 0).all()

    other = logits.detach().clone()
    other[:, absent] += 100 * noise(20, len(absent), seed=5)
    changed = batch | {"student_logits": other}
    if not local:
        changed["centers"] = batch["centers"].clone()
        changed["centers"][absent] = noise(len(absent), 16, seed=6)
    assert torch.equal(teaching_loss(**changed), loss)


@pytest.mark.parametrize("local", [False, True])
def test_batch_of_one_class(batch: dict[str, Any], local: bool) -> None:
    """A softmax over one class is 1 whatever the logits say."""
    batch["labels"] = torch.full((20,), 3)
    if local:
        batch["centers"] = None
    logits = batch["student_logits"].requires_grad_()
    loss = teaching_loss(**batch)
    assert loss == 0
    assert (gradient_of(loss, logits) == 0).all()


def test_class_missing_from_the_centers(batch: dict[str, Any]) -> None:
    """In the batch, not in the set of the centres: similarity 0, nothing breaks."""
    batch["centers"][4] = 0
    logits = batch["student_logits"].requires_grad_()
    loss = teaching_loss(**batch)
    assert loss.isfinite()
    assert gradient_of(loss, logits).isfinite().all()


def test_only_the_student_gets_a_gradient(batch: dict[str, Any]) -> None:
    for key in ("student_logits", "teacher_embedding", "centers"):
        batch[key] = batch[key].clone().requires_grad_()
    teacher_logits = noise(20, 7, seed=3).requires_grad_()
    batch["weighted"] = True
    teaching_loss(**batch, teacher_logits=teacher_logits).backward()
    assert batch["student_logits"].grad is not None
    assert batch["teacher_embedding"].grad is None
    assert batch["centers"].grad is None
    assert teacher_logits.grad is None


def test_unknown_side_of_tau(batch: dict[str, Any]) -> None:
    message = "^tau_on: unknown side 'teachers'; allowed: both, teacher$"
    with pytest.raises(ValueError, match=message):
        teaching_loss(**(batch | {"tau_on": "teachers"}))


def test_weights_need_the_teachers_logits(batch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="teacher_logits"):
        teaching_loss(**(batch | {"weighted": True}))


def test_instance_weights() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    surest, unsure, between = instance_weights(logits).tolist()
    assert surest == 1
    assert unsure == pytest.approx(2 / (1 + math.e))
    assert unsure < between < surest
    equally_sure = logits[:1].repeat(4, 1)
    assert instance_weights(equally_sure).tolist() == [1, 1, 1, 1]
    assert instance_weights(logits[:1]).tolist() == [1]


# Class centres


def test_centers() -> None:
    embedding = torch.tensor([[3.0, 0.0], [0.0, 4.0], [5.0, 0.0], [0.0, 0.5]])
    labels = torch.tensor([2, 2, 0, 0])
    centers = class_centers(embedding, labels, 4)
    expected = torch.tensor([[5, 0.5], [0, 0], [3, 4], [0, 0]])
    torch.testing.assert_close(centers, F.normalize(expected))
    assert (centers[[1, 3]] == 0).all()


def test_sums_of_batches_add_up() -> None:
    embedding, labels = noise(50, 6), torch.arange(50) % 7
    parts = zip(embedding.split(16), labels.split(16), strict=True)
    total = sum(class_sums(e, y, 8) for e, y in parts)
    torch.testing.assert_close(total, class_sums(embedding, labels, 8))
    torch.testing.assert_close(
        F.normalize(torch.as_tensor(total)), class_centers(embedding, labels, 8)
    )


def test_centers_of_half_precision_are_summed_in_float32() -> None:
    """bfloat16 has 8 bits: a running sum of ones would stop at 256."""
    ones = torch.ones(1000, 2, dtype=torch.bfloat16)
    sums = class_sums(ones, torch.zeros(1000, dtype=torch.long), 1)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [[1000, 1000]]


# Nearest class mean


def test_ncm_inflation_of_pure_noise() -> None:
    """method.md: centres from the evaluated images get 9.6 % out of noise, honest ones 1 %."""
    evaluated, train = noise(10_000, 128), noise(50_000, 128, seed=1)
    y_evaluated, y_train = torch.arange(10_000) % 100, torch.arange(50_000) % 100
    inflated, honest = (
        float(ncm_accuracy(evaluated, y_evaluated, class_centers(x, y, 100)))
        for x, y in ((evaluated, y_evaluated), (train, y_train))
    )
    assert inflated == pytest.approx(0.1, abs=0.015)
    assert honest == pytest.approx(0.01, abs=0.004)


def test_ncm_counts() -> None:
    centers = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    embedding = torch.tensor([[5.0, 0.1], [1.0, 1.1], [0.1, 2.0], [3.0, 0.0]])
    assert ncm_accuracy(embedding, torch.tensor([0, 1, 2, 2]), centers) == 0.75
    assert ncm_accuracy(embedding, torch.tensor([1, 2, 0, 1]), centers) == 0


def test_ncm_absent_class_never_wins() -> None:
    """Every real centre is opposite, so the absent class's score of 0 would be the largest."""
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    embedding = torch.tensor([[-1.0, -2.0], [-2.0, -1.0]])
    assert ncm_accuracy(embedding, torch.tensor([0, 0]), centers) == 0
    assert ncm_accuracy(embedding, torch.tensor([1, 2]), centers) == 1
    assert ncm_accuracy(embedding, torch.tensor([0, 0]), torch.zeros(3, 2)) == 0


def test_ncm_under_autocast() -> None:
    embedding, labels = noise(200, 32).float(), torch.arange(200) % 20
    centers = class_centers(embedding, labels, 20)
    # Classes that differ by less than bfloat16 can tell.
    centers = torch.cat([centers, F.normalize(centers + 1e-5 * noise(20, 32, seed=1).float())])
    expected = ncm_accuracy(embedding, labels, centers)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ((embedding @ centers.T).argmax(1) == labels).double().mean()
        assert ncm_accuracy(embedding, labels, centers) == expected
    assert rounded != expected


# Knowledge distillation


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.9), (1.0, 0.5), (8.0, 0.0)])
def test_kd_is_its_definition(temperature: float, alpha: float) -> None:
    student, teacher, labels = noise(9, 5), 2 * noise(9, 5, seed=1), torch.arange(9) % 5
    losses = kd_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    q_s, q_t = ((x / temperature).exp() for x in (student, teacher))
    q_s, q_t = q_s / q_s.sum(1, keepdim=True), q_t / q_t.sum(1, keepdim=True)
    kl = (q_t * (q_t / q_s).log()).sum() / 9
    p = student.exp() / student.exp().sum(1, keepdim=True)
    ce = -p[torch.arange(9), labels].log().mean()
    assert set(losses) == {"ce", "kd"}
    torch.testing.assert_close(losses["ce"], (1 - alpha) * ce)
    torch.testing.assert_close(losses["kd"], alpha * temperature**2 * kl)
