"""The optimiser of every training."""

from collections.abc import Iterable

import torch
from torch import nn

from harness.experiment.experiment import Optimizer


def make_optimizer(
    parameters: Iterable[nn.Parameter], options: Optimizer, device: torch.device
) -> torch.optim.SGD:
    """Return stochastic gradient descent; the loop sets the learning rate of every epoch."""
    is_fused = options.determinism == "fast" and device.type == "cuda"
    return torch.optim.SGD(
        parameters,
        lr=0.1,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
        # PyTorch's own choice on a GPU: fewer calls, and the same bits. The fused form is faster
        # still, but has other bits in the last elements of a tensor, which fill no register.
        foreach=None if is_fused else device.type == "cpu" or None,
        fused=is_fused or None,
    )
