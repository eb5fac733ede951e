"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699).

The functions; `CrdMemory` holds what lasts from step to step.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import upcast_to_float32

EPS = 1e-7


def memory_scores(
    features: Tensor, memory: Tensor, contrast_index: Tensor, *, temperature: float
) -> Tensor:
    """<v_i, m_j> / T for the j of each row of `contrast_index`.

    All B x N products are made and the wanted ones picked: gathering the rows first would take
    (B, K + 1, D): 1 GB for 128 images, 16,384 negatives and 128 features.

    Args:
        features: (B, D).
        memory: (N, D); gets no gradient.
        contrast_index: (B, K + 1) in [0, N).

    Returns:
        (B, K + 1), float32 at least.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = upcast_to_float32(features)
        products = features @ memory.detach().to(features.dtype).T
        return products.gather(1, contrast_index) / temperature


def normaliser(scores: Tensor, n_images: int) -> Tensor:
    """Z = N x mean of exp(scores): the first batch's estimate, kept for the whole training.

    Args:
        scores: (B, K + 1) of `memory_scores`.

    Returns:
        Scalar, without gradient.
    """
    return scores.detach().exp().mean() * n_images


def crd_loss(scores: Tensor, z: Tensor, *, n_images: int) -> Tensor:
    """Noise-contrastive estimation: which of the K + 1 images is the features' own?

    -(1/B) sum_i [log P_i0 / (P_i0 + c) + sum_k log (K / N) / (P_ik + c)] with
    P = exp(scores) / Z and c = K / N + 1e-7. One side: CRD adds that of the student's features
    with the teacher's memory and that of the teacher's with the student's.

    Args:
        scores: (B, K + 1) of `memory_scores`, the image's own in the first column.
        z: scalar, Z.
        n_images: N.

    Returns:
        Scalar.
    """
    n_negatives = scores.shape[1] - 1
    noise = n_negatives / n_images
    c = noise + EPS
    # As logits log(P / c), so that exp(scores) cannot overflow.
    logits = scores - (z * c).log()
    positive = F.logsigmoid(logits[:, 0]).sum()
    negative = (F.logsigmoid(-logits[:, 1:]) + math.log(noise / c)).sum()
    return -(positive + negative) / len(scores)
