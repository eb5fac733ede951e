"""Draw negatives for contrastive losses: images of other classes, from the whole training set."""

import torch
from torch import Tensor

# Random keys held in memory at once, 4 bytes each: 64 MB.
KEYS_AT_ONCE = 2**24


class NegativeSampler:
    """Draws images of other classes from a training set, again and again.

    Args:
        labels: (N,) integers from 0, the labels of the training set.

    Examples:
        >>> sampler, generator = NegativeSampler(torch.tensor([0, 1, 0])), torch.Generator()
        >>> sampler.draw(torch.tensor([0]), 1, generator)
        tensor([[1]])
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.class_sizes = labels.bincount()
        self.class_sizes_cpu = self.class_sizes.cpu()
        self.by_class = labels.argsort(stable=True)
        self.starts = self.class_sizes.cumsum(0) - self.class_sizes  # of the classes in `by_class`

    def draw(
        self,
        batch_labels: Tensor,
        n: int,
        generator: torch.Generator,
        batch_labels_cpu: Tensor | None = None,
    ) -> Tensor:
        """Draw n images of other classes uniformly for every image of a batch.

        Rows are independent. They are drawn without replacement if every image of the batch has n
        such images; otherwise all rows are drawn with replacement. The result depends on the
        generator alone.

        Args:
            batch_labels: (B,), labels of the training set, on its device.
            n: negatives per image.
            generator: on that device.
            batch_labels_cpu: the same on the CPU; without them, the host waits for a GPU.

        Returns:
            (B, n), indices into the training set's labels.

        Raises:
            ValueError: an image has no image of another class.
        """
        on_cpu = batch_labels.cpu() if batch_labels_cpu is None else batch_labels_cpu
        fewest = len(self.labels) - int(self.class_sizes_cpu[on_cpu].max())
        if fewest == 0:
            raise ValueError("labels: all images are of one class, so there are no negatives")
        device, size = self.labels.device, len(batch_labels)
        if fewest < n:
            start = self.starts[batch_labels][:, None]
            class_size = self.class_sizes[batch_labels][:, None]
            drawn = torch.randint(2**62, (size, n), generator=generator, device=device)
            place = drawn % (len(self.labels) - class_size)  # among the others, sorted by class
            return self.by_class[torch.where(place < start, place, place + class_size)]
        rows = max(KEYS_AT_ONCE // len(self.labels), 1)
        parts = []
        for some in batch_labels.split(rows):
            keys = torch.rand(len(some), len(self.labels), generator=generator, device=device)
            keys.masked_fill_(self.labels == some[:, None], -1)
            parts.append(keys.topk(n, sorted=False).indices)
        return torch.cat(parts)


def draw_negatives(
    labels: Tensor, batch_labels: Tensor, n: int, generator: torch.Generator
) -> Tensor:
    """Draw n images of other classes for every image of one batch (see `NegativeSampler.draw`).

    Args:
        labels: (N,) integers from 0, the labels of the training set.
        batch_labels: (B,).
        n: negatives per image.
        generator: on the device to use; on a GPU the host waits for it.

    Returns:
        (B, n), indices into `labels`, on the generator's device.

    Raises:
        ValueError: an image has no image of another class.

    Examples:
        >>> labels, generator = torch.tensor([0, 1, 0]), torch.Generator().manual_seed(0)
        >>> draw_negatives(labels, torch.tensor([0]), 1, generator)
        tensor([[1]])
    """
    sampler = NegativeSampler(labels.to(generator.device))
    return sampler.draw(batch_labels.to(generator.device), n, generator)
