"""The network that a training starts from, and its place on the device."""

from __future__ import annotations

import torch
from torch import nn

from harness.cell import Cell, CellConfig
from harness.data import Dataset
from harness.data.batches import epoch_generator
from harness.methods import stage_of
from harness.networks.base import Network
from harness.networks.pretrained import load_weights
from harness.store import CellDir
from harness.train.checkpoint import load_model


def initial_model(
    cell: Cell, source: CellDir | None, n_classes: int, files: dict[str, str]
) -> Network:
    """Return the network that the training starts from: that of `source`, or a new one.

    `files` says where the files that it needs lie (`CellOptions.pretrained`).
    """
    torch.manual_seed(initial_seed(cell.config))
    network = cell.config.network.located(files)
    if source is None:
        model = network.build(n_classes)
        if cell.config.protocol.convolution_init == "xavier":
            draw_convolutions(model)
        if network.weights:
            load_weights(model, network.weights)
        return model
    has_new_head = stage_of(cell.kind).new_head
    model = load_model(source / "model.pt", network, None if has_new_head else n_classes)
    if has_new_head:
        model.set_submodule(model.head, network.build(n_classes).fc)
    return model


def draw_convolutions(model: Network) -> None:
    """Draw the convolutions anew as the release of 2020-06: Xavier-uniform, gain sqrt(2), no bias.

    Glorot and Bengio, AISTATS 2010, eq. 16, times the gain: uniform in +- gain sqrt(6 / (n_in +
    n_out)), where n counts the weights of an input or output channel.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain=2**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initial_seed(config: CellConfig) -> int:
    """Return the seed of the initial weights.

    Networks of one kind and seed start from the same weights, teacher and student, too, unless the
    protocol gives students weights of their own.
    """
    if config.protocol.initial_weights == "own":
        return epoch_generator(config.seed, 0, stream=2).initial_seed()
    return config.seed


def placed(network: Network, dataset: Dataset, device: torch.device) -> Network:
    """Return a network on the device, for the images of a data set."""
    network.expect(dataset.mean, dataset.std)
    return network.to(device).to(memory_format=torch.channels_last)
