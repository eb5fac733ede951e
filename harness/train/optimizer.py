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
        # On a CPU one pass over each tensor in place of four, and the same bits.
        fused=device.type == "cpu" or None,
    )
