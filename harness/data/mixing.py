"""Mixup and CutMix: images of a batch mixed with others of it, and so are their labels.

The transforms are torchvision's. They draw from PyTorch's global stream, so each batch gives it a
seed of its own, drawn before the epoch, and puts it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torchvision.transforms import v2

from harness.data.batches import TARGET, Batch, Epoch


def mix_batches(
    batches: Epoch, mixup: float, cutmix: float, n_classes: int, generator: torch.Generator
) -> Epoch:
    """Return the batches of an epoch mixed by mixup, CutMix, or for each batch one of them.

    Zhang et al., ICLR 2018, arXiv 1710.09412; Yun et al., ICCV 2019, arXiv 1905.04899.

    Args:
        batches: The batches.
        mixup: The alpha of the Beta distribution of the shares of the two images; 0 for no mixup.
        cutmix: The same for CutMix.
        n_classes: The number of classes.
        generator: Everything random follows from its state.
    """
    transforms = [
        transform(alpha=alpha, num_classes=n_classes)
        for transform, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    mix = v2.RandomChoice(transforms)
    seeds = torch.randint(2**63 - 1, (len(batches.labels),), generator=generator).tolist()

    def mixed() -> Iterator[Batch]:
        for batch, seed in zip(batches, seeds, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # not that of a GPU
                x, target = mix(batch.x, batch.y)
            x = x.contiguous(memory_format=torch.channels_last)
            yield replace(batch, x=x).with_prepared(**{TARGET: target})

    return replace(batches, make=mixed)
