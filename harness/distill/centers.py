"""Class centres, which stage 2 compares the teacher's embedding with and NCM predicts by."""

from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import upcast_to_float32


def class_sums(embedding: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the sum of each class's raw embeddings.

    The sums of the batches add up to the sum of the whole.

    Args:
        embedding: (N, D).
        labels: (N,) in [0, n_classes).
        n_classes: number of classes.

    Returns:
        (n_classes, D), at least float32; zeros for a class without images.

    Examples:
        >>> import torch
        >>> class_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 1]), 2)
        tensor([[0., 0.],
                [4., 6.]])
    """
    embedding = upcast_to_float32(embedding)
    return embedding.new_zeros(n_classes, embedding.shape[1]).index_add(0, labels, embedding)


def class_centers(embedding: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the class centres c_j = normalise(sum of the raw phi of class j).

    This is the form of the released code (2020-06 to 2022): long embeddings count for more than
    short ones, unlike in a mean of normalised embeddings.

    Args:
        embedding: (N, D).
        labels: (N,) in [0, n_classes).
        n_classes: number of classes.

    Returns:
        (n_classes, D) with unit rows, at least float32; zeros for a class without images.

    Examples:
        >>> import torch
        >>> class_centers(torch.tensor([[1.0, 2.0], [2.0, 2.0]]), torch.tensor([1, 1]), 2)
        tensor([[0.0000, 0.0000],
                [0.6000, 0.8000]])
    """
    return F.normalize(class_sums(embedding, labels, n_classes))
