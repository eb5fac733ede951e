"""Mining and the stage-1 losses, against plain triple loops and an independent library."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import (
    nearest_negative,
    same_class_pairs,
    semi_hard_mask,
    unit_distances,
)
from harness.distill.stage1 import RELATIONS, SMALLEST_TAU1, cut_to_smallest, stage1_loss

MARGIN = 0.2
SETTINGS: dict[str, Any] = {"tau1": 4.0, "margin": MARGIN, "negatives": "all", "weight": None}

Triplet = tuple[int, int, int]


def embeddings(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Non-negative, as after a ReLU: distances then lie in [0, sqrt 2]. float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).relu() + 0.01


# The slow reference: triple loops over images, as the definitions read.


def looped_pairs(labels: list[int]) -> list[tuple[int, int]]:
    images = range(len(labels))
    return [(a, p) for a, p in product(images, images) if a != p and labels[a] == labels[p]]


def looped_semi_hard(d: Tensor, labels: list[int], margin: float) -> list[Triplet]:
    return [
        (a, p, n)
        for a, p in looped_pairs(labels)
        for n in range(len(labels))
        if labels[n] != labels[a] and 0 < float(d[a, n] - d[a, p]) <= margin
    ]


def looped_one_negative(d: Tensor, labels: list[int]) -> list[Triplet]:
    mined = []
    for a, p in looped_pairs(labels):
        negatives = [n for n in range(len(labels)) if labels[n] != labels[a]]
        farther = [n for n in negatives if d[a, n] > d[a, p]]
        if farther:
            mined.append((a, p, min(farther, key=lambda n, a=a: float(d[a, n]))))
        elif negatives:
            mined.append((a, p, max(negatives, key=lambda n, a=a: float(d[a, n]))))
    return mined


def kl(q_t: Tensor, q_s: Tensor) -> Tensor:
    return (q_t * (q_t / q_s).log()).sum()


def looped_loss(
    relation: str,
    student: Tensor,
    teacher: Tensor,
    labels: list[int],
    tau1: float,
    margin: float = MARGIN,
) -> tuple[Tensor, int]:
    d_s, d_t = unit_distances(student), unit_distances(teacher)
    mined = d_s.detach()
    terms = []
    if relation == "tuple":
        negatives: dict[tuple[int, int], list[int]] = {}
        for a, p, n in looped_semi_hard(mined, labels, margin):
            negatives.setdefault((a, p), []).append(n)
        for (a, p), ns in negatives.items():
            q_s, q_t = (torch.softmax(-d[a, [p, *ns]] / tau1, 0) for d in (d_s, d_t))
            terms.append(1000 * kl(q_t, q_s))
    else:
        if relation == "triplet":
            triplets = looped_semi_hard(mined, labels, margin)
        else:
            triplets = looped_one_negative(mined, labels)
        for a, p, n in triplets:
            # softmax(x, 0) = (sigmoid(x), 1 - sigmoid(x)), without rounding the second to 0.
            q_s, q_t = (torch.softmax(-d[a, [p, n]] / tau1, 0) for d in (d_s, d_t))
            terms.append(500 * kl(q_t, q_s))
    if not terms:
        return 0.0 * student.sum(), 0
    return torch.stack(terms).mean(), len(terms)


def check_against_loops(student: Tensor, teacher: Tensor, labels: list[int], tau1: float) -> None:
    """All relations: mined sets, numbers, values and gradients."""
    y = torch.tensor(labels)
    d = unit_distances(student)
    anchor, positive = same_class_pairs(y)
    assert list(zip(anchor.tolist(), positive.tolist(), strict=True)) == looped_pairs(labels)

    mask = semi_hard_mask(d, y, anchor, positive, MARGIN)
    row, n = mask.nonzero(as_tuple=True)
    mined = zip(anchor[row].tolist(), positive[row].tolist(), n.tolist(), strict=True)
    assert list(mined) == looped_semi_hard(d, labels, MARGIN)

    negative, found = nearest_negative(d, y, anchor, positive)
    triplets = zip(*(i[found].tolist() for i in (anchor, positive, negative)), strict=True)
    assert list(triplets) == looped_one_negative(d, labels)

    for relation in RELATIONS:
        ours, reference = (student.clone().requires_grad_() for _ in range(2))
        loss, n_relations = stage1_loss(
            ours, teacher, y, relation=relation, **(SETTINGS | {"tau1": tau1})
        )
        expected, n_expected = looped_loss(relation, reference, teacher, labels, tau1)
        loss.backward()
        expected.backward()
        assert n_relations == n_expected
        assert not n_relations.is_floating_point()
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
        assert ours.grad.isfinite().all()
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-8, atol=1e-9)
        if n_expected == 0:
            assert loss == 0
            assert (ours.grad == 0).all()


@pytest.mark.parametrize("n_classes", [2, 4, 12])
def test_agrees_with_triple_loop(n_classes: int) -> None:
    generator = torch.Generator().manual_seed(n_classes)
    labels = torch.randint(n_classes, (24,), generator=generator).tolist()
    student, teacher = embeddings(24, 8), embeddings(24, 12, seed=1)
    assert looped_semi_hard(unit_distances(student), labels, MARGIN)
    check_against_loops(student, teacher, labels, tau1=4.0)


# A batch: for each image its class, and which of six pictures it shows (so that pictures repeat,
# also under several classes).
batches = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=9)


@settings(
    max_examples=200, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(batch=batches, seed=st.integers(0, 99), tau1=st.sampled_from([0.5, 4.0]))
@example(batch=[(0, 0), (0, 1), (0, 2), (0, 3)], seed=0, tau1=4.0)  # one class only
@example(batch=[(0, 0), (1, 1), (2, 2), (3, 3)], seed=0, tau1=4.0)  # every class once
@example(batch=[(0, 0), (0, 0), (0, 0), (1, 1)], seed=0, tau1=4.0)  # one picture three times
@example(batch=[(0, 0), (0, 1), (1, 0), (1, 1)], seed=0, tau1=4.0)  # pictures in two classes
@example(batch=[(0, 0), (0, 0), (1, 0), (1, 0)], seed=0, tau1=4.0)  # one picture only: ties
@example(batch=[(0, 0)], seed=0, tau1=4.0)
def test_agrees_with_triple_loop_on_any_batch(
    batch: list[tuple[int, int]], seed: int, tau1: float
) -> None:
    pictures = [picture for _, picture in batch]
    student, teacher = embeddings(6, 4, seed)[pictures], embeddings(6, 5, seed + 1000)[pictures]
    check_against_loops(student, teacher, [label for label, _ in batch], tau1)


@pytest.mark.parametrize("n_classes", [5, 10, 50])
def test_semi_hard_negatives_are_those_of_metric_learning(n_classes: int) -> None:
    generator = torch.Generator().manual_seed(n_classes)
    labels = torch.randint(n_classes, (96,), generator=generator)
    student = embeddings(96, 32)
    miner = TripletMarginMiner(
        margin=MARGIN, type_of_triplets="semihard", distance=LpDistance(normalize_embeddings=True)
    )
    theirs = set(zip(*(i.tolist() for i in miner(student, labels)), strict=True))

    anchor, positive = same_class_pairs(labels)
    mask = semi_hard_mask(unit_distances(student), labels, anchor, positive, MARGIN)
    row, negative = mask.nonzero(as_tuple=True)
    ours = zip(anchor[row].tolist(), positive[row].tolist(), negative.tolist(), strict=True)
    assert theirs
    assert set(ours) == theirs
    _, n = stage1_loss(student, student, labels, relation="triplet", **SETTINGS)
    assert n == len(theirs)


def test_margin_includes_its_end() -> None:
    """0 < D(a, n) - D(a, p) <= margin, in numbers that binary fractions hold exactly."""
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    d = torch.zeros(6, 6)
    d[0] = torch.tensor([0.0, 0.5, 0.25, 0.5, 0.75, 1.0])
    anchor, positive = torch.tensor([0]), torch.tensor([1])
    mask = semi_hard_mask(d, labels, anchor, positive, margin=0.25)
    assert mask.tolist() == [[False, False, False, False, True, False]]


def test_one_negative_falls_back_to_the_farthest() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    d = torch.zeros(4, 4)
    anchor, positive = torch.tensor([0]), torch.tensor([1])
    for row, expected in (([0, 0.5, 0.7, 0.6], 3), ([0, 0.5, 0.3, 0.4], 3), ([0, 0.5, 0.4, 0], 2)):
        d[0] = torch.tensor(row)
        negative, found = nearest_negative(d, labels, anchor, positive)
        assert (negative.tolist(), found.tolist()) == ([expected], [True])


def test_tuples_cut_to_the_smallest() -> None:
    """Two negatives of the fewest, in the order of the batch; a pair with none stays with none."""
    yes_no = [[0, 1, 1, 0, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    expected = [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert cut_to_smallest(torch.tensor(yes_no).bool()).int().tolist() == expected
    assert not cut_to_smallest(torch.zeros(3, 5, dtype=torch.bool)).any()
    assert cut_to_smallest(torch.zeros(0, 5, dtype=torch.bool)).shape == (0, 5)


def test_smallest_negatives_are_those_of_the_loss() -> None:
    """Where the smallest tuple has one negative, tuples are the first triplet of each pair."""
    labels = torch.arange(24) % 4
    student, teacher = embeddings(24, 8), embeddings(24, 12, seed=1)
    d_s, d_t = unit_distances(student), unit_distances(teacher)
    first: dict[tuple[int, int], int] = {}
    counts: dict[tuple[int, int], int] = {}
    for a, p, n in looped_semi_hard(d_s, labels.tolist(), MARGIN):
        first.setdefault((a, p), n)
        counts[a, p] = counts.get((a, p), 0) + 1
    assert min(counts.values()) == 1 < max(counts.values())
    terms = [
        1000 * kl(*(torch.softmax(-d[a, [p, n]] / 4.0, 0) for d in (d_t, d_s)))
        for (a, p), n in first.items()
    ]
    settings = SETTINGS | {"negatives": "smallest"}
    loss, count = stage1_loss(student, teacher, labels, relation="tuple", **settings)
    assert count == len(first)
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("relation", "own"), [("tuple", 1000), ("triplet", 500), ("one-negative", 500)]
)
def test_weight_in_the_place_of_the_relations_own(relation: str, own: int) -> None:
    labels = torch.arange(24) % 4
    batch = (embeddings(24, 8), embeddings(24, 12, seed=1), labels)
    loss, _ = stage1_loss(*batch, relation=relation, **SETTINGS)
    weighted, _ = stage1_loss(*batch, relation=relation, **(SETTINGS | {"weight": 7.0}))
    assert loss > 0
    torch.testing.assert_close(weighted, 7.0 * loss / own, rtol=1e-12, atol=0)


# Distances


def test_distances_of_duplicates() -> None:
    """Exactly 0 in float32, so that no copy becomes a semi-hard negative, with gradient 0."""
    x = embeddings(64, 128).float()
    x[1] = x[0]
    x[2] = 3 * x[0]
    x.requires_grad_()
    d = unit_distances(x)
    assert (d.diagonal() == 0).all()
    assert d[0, 1] == 0
    assert d[0, 2] < 1e-6
    assert torch.equal(d, d.T)
    (gradient,) = torch.autograd.grad(d[0, 1] + d.diagonal().sum(), x)
    assert (gradient == 0).all()


def test_distances_are_accurate_between_near_duplicates() -> None:
    """The form by inner products is off by 7e-4 here."""
    z = F.normalize(embeddings(64, 128).float().double())
    near = F.normalize(z + 1e-4 * embeddings(64, 128, seed=1))
    both = torch.cat([z, near])
    exact = (both[:, None] - both[None, :]).square().sum(2).sqrt()
    assert (unit_distances(both.float()) - exact).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_distances_are_in_float32_at_least(given_dtype: torch.dtype, expected: torch.dtype) -> None:
    x = embeddings(32, 16).to(given_dtype)
    d = unit_distances(x)
    assert d.dtype == expected
    torch.testing.assert_close(d, unit_distances(x.double()).to(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("relation", ["tuple", "triplet"])
def test_float32_is_enough(relation: str) -> None:
    labels = torch.arange(128) % 10
    x, teacher = embeddings(128, 128), embeddings(128, 128, seed=1)
    loss, gradient = {}, {}
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).clone().requires_grad_()
        loss[dtype], _ = stage1_loss(leaf, teacher.to(dtype), labels, relation=relation, **SETTINGS)
        (gradient[dtype],) = torch.autograd.grad(loss[dtype], leaf)
    exact, exact_gradient = loss[torch.float64], gradient[torch.float64]
    assert abs(loss[torch.float32] - exact) < 1e-5 * exact
    error = (gradient[torch.float32] - exact_gradient).abs().max()
    assert error < 1e-4 * exact_gradient.abs().max()


# The stage-1 loss


@pytest.mark.parametrize("relation", RELATIONS)
def test_given_pairs_change_nothing(relation: str) -> None:
    labels = torch.arange(30) % 4
    student, teacher = embeddings(30, 8), embeddings(30, 8, seed=1)
    pairs = same_class_pairs(labels)
    ours = stage1_loss(student, teacher, labels, relation=relation, **SETTINGS, pairs=pairs)
    assert ours == stage1_loss(student, teacher, labels, relation=relation, **SETTINGS)
    fewer = (pairs[0][:5], pairs[1][:5])  # they are what is used
    assert (
        stage1_loss(student, teacher, labels, relation=relation, **SETTINGS, pairs=fewer)[1]
        < ours[1]
    )


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_broken_student_is_not_a_perfect_one(relation: str) -> None:
    """NaN fails every comparison, so nothing is mined; the loss must say NaN all the same."""
    labels = torch.arange(12) % 3
    loss, _ = stage1_loss(
        torch.full((12, 4), torch.nan),
        embeddings(12, 4).float(),
        labels,
        relation=relation,
        **SETTINGS,
    )
    assert loss.isnan()


@pytest.mark.parametrize("relation", RELATIONS)
def test_smallest_temperature(relation: str) -> None:
    """Relations that differ by the most that unit vectors can: p beside a or opposite, n likewise.

    Neither overflows at the smallest temperature allowed, nor loses the sum of small terms.
    """
    labels = torch.tensor([0, 0, 1, 1])
    near_first = torch.tensor([[1, 0], [1, 1e-3], [-1, 1e-3], [-1, -1e-3]])
    far_first = torch.tensor([[1, 0], [-1, 1e-2], [1, 1e-2], [-1, 1e-3]])
    extreme = SETTINGS | {"tau1": SMALLEST_TAU1, "margin": 2.0}
    for student, teacher in ((near_first, far_first), (far_first, near_first)):
        values = {}
        for dtype in (torch.float32, torch.float64):
            leaf = student.to(dtype).requires_grad_()
            values[dtype], n = stage1_loss(
                leaf, teacher.to(dtype), labels, relation=relation, **extreme
            )
            (gradient,) = torch.autograd.grad(values[dtype], leaf)
            assert n > 0
            assert gradient.isfinite().all()
        torch.testing.assert_close(
            values[torch.float32].double(), values[torch.float64], rtol=1e-4, atol=0
        )
        expected, _ = looped_loss(
            relation, student.double(), teacher.double(), labels.tolist(), SMALLEST_TAU1, margin=2.0
        )
        torch.testing.assert_close(values[torch.float64], expected, rtol=1e-9, atol=0)


def test_temperature_too_small() -> None:
    x = embeddings(4, 4)
    settings = SETTINGS | {"tau1": 0.01}
    with pytest.raises(ValueError, match=r"^tau1: 0\.01 is too small for float32; use 0\.05 or"):
        stage1_loss(x, x, torch.zeros(4, dtype=torch.long), relation="tuple", **settings)


def test_unknown_relation() -> None:
    x = embeddings(4, 4)
    message = "^relation: unknown relation 'triplets'; allowed: tuple, triplet, one-negative$"
    with pytest.raises(ValueError, match=message):
        stage1_loss(x, x, torch.zeros(4, dtype=torch.long), relation="triplets", **SETTINGS)
