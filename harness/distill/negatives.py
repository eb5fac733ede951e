"""Draw negatives for contrastive losses: images of other classes, from the whole training set."""

import torch
from torch import Tensor

# Random keys held in memory at once, 4 bytes each: 64 MB.
KEYS_AT_ONCE = 2**24


def draw_negatives(
    labels: Tensor, batch_labels: Tensor, n: int, generator: torch.Generator
) -> Tensor:
    """Draw n images of other classes uniformly for every image of a batch, independently per row.

    Rows are drawn without replacement if every image of the batch has n such images; otherwise all
    rows are drawn with replacement. The result depends on the generator alone.

    Args:
        labels: (N,) integers from 0, the labels of the training set.
        batch_labels: (B,).
        n: negatives per image.
        generator: on the device to use; on a GPU the host waits for it.

    Returns:
        (B, n), indices into `labels`, on the generator's device.

    Raises:
        ValueError: an image has no image of another class.

    Example:
        >>> labels, generator = torch.tensor([0, 1, 0]), torch.Generator().manual_seed(0)
        >>> draw_negatives(labels, torch.tensor([0]), 1, generator)
        tensor([[1]])
    """
    device = generator.device
    labels, batch_labels = labels.to(device), batch_labels.to(device)
    class_size = labels.bincount(minlength=int(batch_labels.max()) + 1)[batch_labels]
    others = len(labels) - class_size
    fewest = int(others.min())
    if fewest == 0:
        raise ValueError("labels: all images are of one class, so there are no negatives")
    if fewest < n:
        by_class, order = labels.sort(stable=True)
        start = torch.searchsorted(by_class, batch_labels)[:, None]
        drawn = torch.randint(2**62, (len(batch_labels), n), generator=generator, device=device)
        place = drawn % others[:, None]  # among the images of other classes, sorted by class
        return order[torch.where(place < start, place, place + class_size[:, None])]
    rows = max(KEYS_AT_ONCE // len(labels), 1)
    parts = []
    for some in batch_labels.split(rows):
        keys = torch.rand(len(some), len(labels), generator=generator, device=device)
        keys.masked_fill_(labels == some[:, None], -1)
        parts.append(keys.topk(n, sorted=False).indices)
    return torch.cat(parts)
