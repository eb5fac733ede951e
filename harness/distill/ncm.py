"""Nearest class mean: how good an embedding is before it has a classifier."""

import torch
from torch import Tensor

from harness.distill.relations import upcast_to_float32


def ncm_accuracy(embedding: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Return the fraction of images with argmax_j <phi, c_j> equal to their label.

    The released code took the centres from the evaluated images, which lets each image help its own
    centre (docs/protocol.md, quirk 2). Centres from the training set give the unbiased figure.

    Args:
        embedding: (N, D), raw.
        labels: (N,).
        centers: (C, D), from `class_centers`; a zero row is a class without images and cannot win.

    Returns:
        Scalar in [0, 1], float64 (exactly the ratio of two counts).

    Examples:
        >>> embedding, labels = torch.tensor([[3.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0])
        >>> ncm_accuracy(embedding, labels, centers=torch.eye(2)).item()
        0.5
    """
    return (ncm_classes(embedding, centers) == labels).double().mean()


def ncm_classes(embedding: Tensor, centers: Tensor) -> Tensor:
    """Return the class (N,) with the largest <phi, c_j>; -1 if no product is finite.

    Args:
        embedding: (N, D), raw.
        centers: (C, D); a zero row is a class without images and cannot win.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        embedding = upcast_to_float32(embedding)
        scores = embedding @ centers.to(embedding.dtype).T
    best, classes = scores.masked_fill((centers == 0).all(1), -torch.inf).max(1)
    return classes.where(best.isfinite(), -1)
