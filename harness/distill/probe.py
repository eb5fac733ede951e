"""Linear probe: an embedding's worth to a linear classifier (Alain, Bengio, arXiv 1610.01644)."""

import warnings

import torch
from torch import Tensor


def linear_probe(
    embedding: Tensor, labels: Tensor, n_classes: int, *, l2: float
) -> tuple[Tensor, Tensor]:
    """Fit multinomial logistic regression: minimise sum CE(W phi + b, y) + l2 / 2 ||W||^2.

    The bias is not penalised: scikit-learn's LogisticRegression(C=1 / l2), in float64. The problem
    is convex and solved by Newton's method from zero, so the result is deterministic. Without l2,
    separable classes have no finite optimum; the solver stops where almost no loss is left.

    Args:
        embedding: (N, D).
        labels: (N,) in [0, n_classes).
        n_classes: number of classes.
        l2: weight of half the squared weights, >= 0.

    Returns:
        Weight (n_classes, D) and bias (n_classes,), float64; zeros for a class without images.

    Examples:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> weight, bias = linear_probe(x, y, 2, l2=1.0)
        >>> (x.double() @ weight.T + bias).argmax(1)
        tensor([0, 0, 1, 1])
    """
    from sklearn.linear_model import LogisticRegression  # imported here, as it takes a second

    x, y = embedding.detach().double(), labels.cpu()
    weight, bias = x.new_zeros(n_classes, x.shape[1]), x.new_zeros(n_classes)
    present = y.unique()
    if len(present) < 2:
        return weight, bias
    # For two classes scikit-learn has one row, whose square is twice the sum of our rows' squares.
    strength = l2 / 2 if len(present) == 2 else l2
    model = LogisticRegression(
        C=1 / strength if l2 > 0 else float("inf"), solver="newton-cg", tol=1e-10, max_iter=1000
    )
    mean = x.mean(0)  # centring is undone by the bias, and takes a tenth of the steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no finite optimum
        model.fit((x - mean).cpu().numpy(), y.numpy())
    rows, offsets = (torch.from_numpy(a).to(x) for a in (model.coef_, model.intercept_))
    if len(present) == 2:
        rows, offsets = torch.cat([-rows, rows]) / 2, torch.cat([-offsets, offsets]) / 2
    weight[present], bias[present] = rows, offsets - rows @ mean
    return weight, bias
