"""The linear probe against scikit-learn's logistic regression."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from harness.distill import linear_probe


def images(
    n: int = 120, d: int = 6, counts: tuple[int, ...] = (), seed: int = 0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D), not negative as after a ReLU, of overlapping classes."""
    generator = torch.Generator().manual_seed(seed)
    counts = counts or (n // 4,) * 4
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    middle = torch.randn(len(counts), d, generator=generator, dtype=torch.float64)
    x = middle[labels] + torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
    return (x.relu() * spread), labels


def reference(x: Tensor, labels: Tensor, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the classes that have images; of the bias, the sum is arbitrary: 0."""
    model = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=100_000, solver="newton-cg")
    model.fit(x.double().numpy(), labels.numpy())
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row: of the second class against the first
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias - bias.mean()


def assert_equal(found: tuple[Tensor, Tensor], x: Tensor, labels: Tensor, l2: float) -> None:
    present = labels.unique()
    weight, bias = (t[present].numpy() for t in found)
    expected_weight, expected_bias = reference(x, labels, l2)
    scale = np.abs(expected_weight).max()
    np.testing.assert_allclose(weight, expected_weight, rtol=0, atol=1e-5 * scale)
    scale = np.abs(expected_bias).max()
    np.testing.assert_allclose(bias, expected_bias, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    "counts",
    [(30, 30, 30, 30), (100, 3, 17, 1), (5, 5, 5, 5)],
    ids=["balanced", "unbalanced", "few"],
)
def test_as_scikit_learn(dtype: torch.dtype, l2: float, counts: tuple[int, ...]) -> None:
    x, labels = images(counts=counts)
    x = x.to(dtype)
    found = linear_probe(x, labels, 4, l2=l2)
    assert all(t.dtype == torch.float64 for t in found)
    assert_equal(found, x, labels, l2)


@pytest.mark.parametrize("spread", [1e-3, 30.0])
def test_whatever_the_size_of_the_embedding(spread: float) -> None:
    x, labels = images(spread=spread)
    assert_equal(linear_probe(x, labels, 4, l2=1.0), x, labels, 1.0)


def test_more_dimensions_than_images() -> None:
    x, labels = images(20, 64)
    assert_equal(linear_probe(x, labels, 4, l2=0.1), x, labels, 0.1)


def test_of_one_dimension() -> None:
    x, labels = images(d=1)
    found = linear_probe(x, labels, 4, l2=0.5)
    assert found[0].shape == (4, 1)
    assert_equal(found, x, labels, 0.5)


@pytest.mark.parametrize("missing", [0, 2, 3])
def test_a_class_without_images_is_zero(missing: int) -> None:
    x, labels = images()
    x, labels = x[labels != missing], labels[labels != missing]
    weight, bias = linear_probe(x, labels, 5, l2=1.0)
    assert weight.shape == (5, 6) and bias.shape == (5,)
    for absent in (missing, 4):
        assert not weight[absent].any() and bias[absent] == 0
    assert_equal((weight, bias), x, labels, 1.0)


def test_two_classes() -> None:
    x, labels = images(counts=(40, 20))
    weight, bias = linear_probe(x, labels, 2, l2=1.0)
    # Two rows with half of the penalty each: the same minimum as one row with twice of it.
    assert torch.allclose(weight[0], -weight[1], atol=1e-8)
    np.testing.assert_allclose(bias.sum(), 0, atol=1e-8)
    expected = LogisticRegression(C=2.0, tol=1e-12, max_iter=10_000, solver="newton-cg")
    expected.fit(x.numpy(), labels.numpy())
    difference = (weight[1] - weight[0]).numpy()
    np.testing.assert_allclose(difference, expected.coef_[0], rtol=1e-5)
    np.testing.assert_allclose(bias[1] - bias[0], expected.intercept_[0], rtol=1e-5)


def test_without_a_penalty_it_ends_with_numbers() -> None:
    """Classes that can be told apart have no optimum then: it stops, and tells them apart."""
    labels = torch.arange(3).repeat_interleave(4)
    x = torch.nn.functional.one_hot(labels, 3).float() * 5
    x += torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    weight, bias = linear_probe(x, labels, 3, l2=0.0)
    assert weight.isfinite().all() and bias.isfinite().all()
    assert ((x.double() @ weight.T + bias).argmax(1) == labels).all()
    # Of classes that cannot be, it is the optimum: no gradient is left.
    x, labels = images()
    weight, bias = linear_probe(x, labels, 4, l2=0.0)
    probabilities = (x @ weight.T + bias).softmax(1)
    residual = probabilities - torch.nn.functional.one_hot(labels, 4)
    assert (residual.T @ x).abs().max() < 1e-4 and residual.sum(0).abs().max() < 1e-4


def test_an_embedding_that_says_nothing_leaves_the_shares() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    for l2 in (0.0, 1.0):
        weight, bias = linear_probe(torch.zeros(4, 3), labels, 3, l2=l2)
        assert not weight.any() and bias[1] == 0
        assert torch.allclose((bias[0] - bias[2]).exp(), torch.tensor(3.0).double(), rtol=1e-5)
    alone = linear_probe(torch.ones(4, 3), torch.ones(4).long(), 2, l2=1.0)
    assert not alone[0].any() and not alone[1].any(), "one class: nothing to tell apart"


def test_nothing_about_it_is_random() -> None:
    x, labels = images()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():  # as it is called
            found.append(linear_probe(x, labels, 4, l2=1.0))
    for a, b in itertools.pairwise(found):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        assert not a[0].requires_grad
