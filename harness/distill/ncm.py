"""Nearest class mean: how good an embedding is before it has a classifier."""

import torch
from torch import Tensor

from harness.distill.relations import upcast_to_float32


def ncm_accuracy(embedding: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Fraction of images with argmax_j <phi, c_j> equal to their label.

    As in the released code, which took the centres from the evaluated images themselves; that
    lets each image help its own centre (docs/protocol.md, quirk 2). Centres from the training
    set give the honest figure.

    Args:
        embedding: (N, D), raw.
        labels: (N,).
        centers: (C, D) of `class_centers`; a zero row is a class without images and cannot win.

    Returns:
        Scalar in [0, 1], float64 (exactly the ratio of two counts).
    """
    with torch.autocast(embedding.device.type, enabled=False):
        embedding = upcast_to_float32(embedding)
        scores = embedding @ centers.to(embedding.dtype).T
    best, predicted = scores.masked_fill((centers == 0).all(1), -torch.inf).max(1)
    return ((predicted == labels) & best.isfinite()).double().mean()
