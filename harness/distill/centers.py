"""Class centres: what stage 2 compares the teacher's embedding with, and what NCM predicts by."""

from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import upcast_to_float32


def class_sums(embedding: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Sum of each class's raw embeddings. Sums of batches add up to the sum of the whole.

    Args:
        embedding: (N, D).
        labels: (N,) in [0, n_classes).

    Returns:
        (n_classes, D), float32 at least; zeros for a class without images.
    """
    embedding = upcast_to_float32(embedding)
    return embedding.new_zeros(n_classes, embedding.shape[1]).index_add(0, labels, embedding)


def class_centers(embedding: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """c_j = normalise(sum of the raw phi of class j), as in the released code (2020-06 to 2022).

    Long embeddings count for more than short ones, unlike in a mean of normalised ones.

    Args:
        embedding: (N, D).
        labels: (N,) in [0, n_classes).

    Returns:
        (n_classes, D) of unit rows, float32 at least; zeros for a class without images.
    """
    return F.normalize(class_sums(embedding, labels, n_classes))
