"""The optimiser of every training."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: dict[str, Any], device: torch.device
) -> torch.optim.SGD:
    """Stochastic gradient descent; its learning rate is set anew every epoch.

    Args:
        settings: momentum, weight_decay and nesterov.
    """
    return torch.optim.SGD(
        parameters,
        lr=0.1,
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        nesterov=settings["nesterov"],
        # As PyTorch does on a GPU by itself: fewer calls, and the same bits. Its fused form, faster
        # still, has others in the last elements of a tensor, which fill no register.
        foreach=device.type == "cpu" or None,
    )
