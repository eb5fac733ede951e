"""Negatives for contrastive losses: images of other classes, from the whole training set."""

import torch
from torch import Tensor

# Random keys in memory at a time, 4 bytes each: 64 MB.
KEYS_AT_ONCE = 2**24


def draw_negatives(
    labels: Tensor, batch_labels: Tensor, n: int, generator: torch.Generator
) -> Tensor:
    """For every image of a batch n images of other classes, uniformly, each row on its own.

    Without replacement within a row where every image of the batch has n such images; otherwise
    with replacement, in all rows. The generator decides everything.

    Args:
        labels: (N,) integers from 0, of the training set.
        batch_labels: (B,).
        generator: of the device to work on; on a GPU this waits for it.

    Returns:
        (B, n), indices into `labels`, on the generator's device.

    Raises:
        ValueError: an image has no image of another class.
    """
    device = generator.device
    labels, batch_labels = labels.to(device), batch_labels.to(device)
    own = labels.bincount(minlength=int(batch_labels.max()) + 1)[batch_labels]
    others = len(labels) - own
    fewest = int(others.min())
    if fewest == 0:
        raise ValueError("labels: all images are of one class, there are no negatives to draw")
    if fewest < n:
        by_class, order = labels.sort(stable=True)
        start = torch.searchsorted(by_class, batch_labels)[:, None]
        drawn = torch.randint(2**62, (len(own), n), generator=generator, device=device)
        place = drawn % others[:, None]  # among the others, by class
        return order[torch.where(place < start, place, place + own[:, None])]
    rows = max(KEYS_AT_ONCE // len(labels), 1)
    parts = []
    for some in batch_labels.split(rows):
        keys = torch.rand(len(some), len(labels), generator=generator, device=device)
        keys.masked_fill_(labels == some[:, None], -1)
        parts.append(keys.topk(n, sorted=False).indices)
    return torch.cat(parts)
