"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699).

These are the functions; `CrdMemory` holds the state that lasts from step to step.
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
    """Return <v_i, m_j> / T for each j in row i of `contrast_index`.

    All B x N products are computed and the requested ones picked. Gathering the rows first would
    take (B, K + 1, D): 1 GB for 128 images, 16,384 negatives and 128 features.

    Args:
        features: (B, D).
        memory: (N, D); gets no gradient.
        contrast_index: (B, K + 1) in [0, N).
        temperature: T.

    Returns:
        (B, K + 1), at least float32.

    Examples:
        >>> memory, index = torch.eye(2), torch.tensor([[0, 1]])
        >>> memory_scores(torch.tensor([[3.0, 4.0]]), memory, index, temperature=0.5)
        tensor([[6., 8.]])
    """
    with torch.autocast(features.device.type, enabled=False):
        features = upcast_to_float32(features)
        products = features @ memory.detach().to(features.dtype).T
        return products.gather(1, contrast_index) / temperature


def normaliser(scores: Tensor, n_images: int) -> Tensor:
    """Return Z = N x mean of exp(scores).

    The estimate from the first batch is kept throughout training.

    Args:
        scores: (B, K + 1), from `memory_scores`.
        n_images: N.

    Returns:
        Scalar, without gradient.

    Examples:
        >>> normaliser(torch.zeros(4, 3), n_images=50)
        tensor(50.)
    """
    return scores.detach().exp().mean() * n_images


def crd_loss(scores: Tensor, z: Tensor, *, n_images: int) -> Tensor:
    """Return the noise-contrastive loss: which of the K + 1 images do the features belong to?

    -(1/B) sum_i [log P_i0 / (P_i0 + c) + sum_k log (K / N) / (P_ik + c)] with
    P = exp(scores) / Z and c = K / N + 1e-7. This is one side: CRD adds the loss of the student's
    features against the teacher's memory and that of the teacher's against the student's.

    Args:
        scores: (B, K + 1), from `memory_scores`; the image itself is in the first column.
        z: scalar, Z.
        n_images: N.

    Returns:
        Scalar.

    Examples:
        With one negative per image and no information, both decisions are a guess (log 2 each):

        >>> loss = crd_loss(torch.zeros(4, 2), torch.tensor(1.0), n_images=1)
        >>> round(loss.item() / math.log(2), 4)
        2.0
    """
    n_negatives = scores.shape[1] - 1
    noise = n_negatives / n_images
    c = noise + EPS
    # As logits log(P / c), so that exp(scores) cannot overflow.
    logits = scores - (z * c).log()
    positive = F.logsigmoid(logits[:, 0]).sum()
    negative = (F.logsigmoid(-logits[:, 1:]) + math.log(noise / c)).sum()
    return -(positive + negative) / len(scores)
