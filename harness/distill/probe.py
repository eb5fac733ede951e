"""Linear probe: what an embedding is worth to a linear classifier (Alain, Bengio, arXiv
1610.01644)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_STEPS = 100  # of Newton's method; a dozen is usual
MOST_PRODUCTS = 1000  # with the Hessian, of one step
TOLERANCE = 1e-10  # of the gradient, as a part of the first one
# Of the loss: a step that promises less is the last one, as what it changes cannot be measured.
ROUNDED = 1e-12


@torch.no_grad()
def linear_probe(
    embedding: Tensor, labels: Tensor, n_classes: int, *, l2: float
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: minimises sum CE(W phi + b, y) + l2 / 2 ||W||^2, the bias
    free, as scikit-learn's LogisticRegression(C=1 / l2) does.

    Convex, and solved with Newton's method from zero in float64, so nothing about it is random.
    Without l2, classes that can be told apart have no finite optimum; it ends where next to no loss
    is left then.

    Args:
        embedding: (N, D). labels: (N,) in [0, n_classes). l2: >= 0.

    Returns:
        weight (n_classes, D) and bias (n_classes,), float64; zeros for a class without images.
    """
    present, targets = labels.unique(return_inverse=True)
    mean = embedding.double().mean(0)  # taken away, it is the bias's business: fewer steps
    x = F.pad(embedding.double() - mean, (0, 1), value=1.0)  # the bias is a constant's weight
    wanted = F.one_hot(targets, len(present)).to(x.dtype)
    penalty = x.new_tensor([l2] * embedding.shape[1] + [0.0])

    def loss(weight: Tensor) -> Tensor:
        errors = F.cross_entropy(x @ weight.T, targets, reduction="sum")
        return errors + (penalty * weight.square()).sum() / 2

    weight = x.new_zeros(len(present), x.shape[1])
    at_zero = value = loss(weight)
    first = x.new_tensor(0.0)
    for _ in range(MOST_STEPS):
        p = (x @ weight.T).softmax(1)
        gradient = (p - wanted).T @ x + penalty * weight
        diagonal = ((p * (1 - p)).T @ x.square() + penalty).clamp_min(torch.finfo(x.dtype).tiny)

        def product(v: Tensor, p: Tensor = p) -> Tensor:
            change = x @ v.T
            change = p * (change - (p * change).sum(1, keepdim=True))
            return change.T @ x + penalty * v

        # In units of the curvature, whatever the size of the embedding.
        size = (gradient.square() / diagonal).sum().sqrt()
        first = torch.maximum(first, size)
        if size <= TOLERANCE * first or value <= ROUNDED * at_zero:
            break
        step = conjugate_gradients(product, -gradient, diagonal, min(0.1, float(size / first)))
        slope = (gradient * step).sum()
        while slope < -ROUNDED * value and loss(weight + step) > value + 1e-4 * slope:
            step, slope = step / 2, slope / 2
        weight = weight + step
        if not slope < -ROUNDED * value:
            break
        value = loss(weight)
    weight -= weight.mean(0)  # the same for all classes changes no prediction
    full = x.new_zeros(n_classes, len(mean)), x.new_zeros(n_classes)
    full[0][present] = weight[:, :-1]
    full[1][present] = weight[:, -1] - weight[:, :-1] @ mean
    return full


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor, tolerance: float
) -> Tensor:
    """s with product(s) = right, but for a part of `tolerance`.

    product: with a symmetric matrix that has no negative curvature. diagonal: that matrix's, > 0.
    """
    solution, residual = torch.zeros_like(right), right
    direction = residual / diagonal
    size = (residual * direction).sum()
    enough = tolerance**2 * size
    for _ in range(MOST_PRODUCTS):
        curved = product(direction)
        curvature = (direction * curved).sum()
        if size <= enough or not curvature > 0:
            break
        solution = solution + size / curvature * direction
        residual = residual - size / curvature * curved
        scaled = residual / diagonal
        size, before = (residual * scaled).sum(), size
        direction = scaled + size / before * direction
    return solution
