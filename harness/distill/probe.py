"""Linear probe: what an embedding is worth to a linear classifier (Alain, Bengio, arXiv
1610.01644)."""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_ITERATIONS = 1000


@torch.enable_grad()
def linear_probe(
    embedding: Tensor, labels: Tensor, n_classes: int, *, l2: float
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: minimises sum CE(W phi + b, y) + l2 / 2 ||W||^2, the bias
    free, as scikit-learn's LogisticRegression(C=1 / l2) does.

    Convex, and solved with L-BFGS from zero in float64, so nothing about it is random. Without l2,
    classes that can be told apart have no finite optimum; it ends after MOST_ITERATIONS then.

    Args:
        embedding: (N, D). labels: (N,) in [0, n_classes). l2: >= 0.

    Returns:
        weight (n_classes, D) and bias (n_classes,), float64; zeros for a class without images.
    """
    present, targets = labels.unique(return_inverse=True)
    x = embedding.double()
    scale = x.norm(dim=1).mean().clamp_min(torch.finfo(x.dtype).tiny)  # for L-BFGS alone
    scaled = x / scale
    weight = x.new_zeros(len(present), x.shape[1], requires_grad=True)
    bias = x.new_zeros(len(present), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MOST_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = l2 / 2 * (weight / scale).square().sum()
        loss = (
            F.cross_entropy(scaled @ weight.T + bias, targets, reduction="sum") + penalty
        ) / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    full = x.new_zeros(n_classes, x.shape[1]), x.new_zeros(n_classes)
    with torch.no_grad():
        full[0][present] = weight / scale
        full[1][present] = bias
    return full
