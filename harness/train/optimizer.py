"""The optimiser of every training, and the average of the weights that it goes through."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.experiment.optimizer import Optimizer
from harness.networks.base import Network

HOW = ("foreach", "fused", "capturable")  # the ways to compute the same step


def make_optimizer(
    parameters: Iterable[nn.Parameter], options: Optimizer, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimiser; the loop sets the learning rate of every epoch."""
    is_fused = options.determinism == "fast" and device.type == "cuda"
    how: dict[str, Any] = {
        # PyTorch's own choice on a GPU: fewer calls, and the same bits. The fused form is faster
        # still, but has other bits in the last elements of a tensor, which fill no register.
        "foreach": None if is_fused else device.type == "cpu" or None,
        "fused": is_fused or None,
    }
    if options.name == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=0.1,
            betas=options.betas,
            weight_decay=options.weight_decay,
            capturable=device.type == "cuda",  # a CUDA graph has to count its steps
            **how,
        )
    return torch.optim.SGD(
        parameters,
        lr=0.1,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
        **how,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of an optimiser, which may have run on another device."""
    groups = [
        saved_group | {name: own[name] for name in HOW if name in own}
        for saved_group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})


class WeightAverage:
    """The exponential moving average of a network's weights and statistics, after each step.

    It starts from the initial weights. Polyak and Juditsky, SIAM J. Control Optim. 1992, average
    with equal weights; the moving form is that of `torch.optim.swa_utils`, whose AveragedModel
    cannot be used, as the counters of batch norms come and go (`batch_norms_count_at_once`).

    Attributes:
        model: A network with the average, to evaluate.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.model = copy.deepcopy(network).requires_grad_(False)
        self._network = network
        self._average = get_ema_multi_avg_fn(decay)
        ours, theirs = self.model.state_dict(), network.state_dict()
        names = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._ours, self._theirs = [ours[n] for n in names], [theirs[n] for n in names]

    def update(self) -> None:
        """Take the network's weights after a step; nothing waits for a GPU."""
        self._average(self._ours, self._theirs, 0)

    def end_epoch(self) -> None:
        """Take what is counted and not averaged."""
        theirs = self._network.state_dict()
        for name, tensor in self.model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.copy_(theirs[name])


def make_average(network: Network, options: Optimizer) -> WeightAverage | None:
    """Return the average of the network's weights; None if there is none to keep."""
    return None if options.ema_decay is None else WeightAverage(network, options.ema_decay)
