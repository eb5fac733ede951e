"""Checks of an experiment's networks, before anything trains."""

from __future__ import annotations

import torch

from harness.common.errors import UserError, one_line
from harness.networks.base import ShapesOnly
from harness.networks.foreign import DATA, ForeignOptions
from harness.networks.options import NetworkOptions
from harness.networks.pretrained import load_weights
from harness.networks.wrapped import PROBE_CLASSES, WrappedNetwork, layout_of


def examine(options: NetworkOptions, height: int, width: int) -> NetworkOptions:
    """Return a network's options with its maps and input size, after trying it on such images.

    Files of weights are read, and loaded into a network.

    Raises:
        UserError: There is no such network, it cannot take these images, or its files do not fit.
    """
    if isinstance(options, ForeignOptions):
        maps = tuple(each.name for each in layout_of(options).maps)
        size = _try(options, height, width)
        options = options.model_copy(update={"maps": maps, "input_size": size})
    if options.weights:
        load_weights(options.build(PROBE_CLASSES), options.weights)
    return options


def _try(options: ForeignOptions, height: int, width: int) -> int | str:
    """Return the height of the images that the network gets, or DATA if they are not scaled."""
    with ShapesOnly():
        network = options.build(PROBE_CLASSES)
    assert isinstance(network, WrappedNetwork)
    try:
        with torch.device("meta"), torch.no_grad():
            network.to("meta").train().embed_with_maps(torch.empty(2, 3, height, width))
    except Exception as error:
        raise UserError(
            f"{options.label} cannot take images of {width}x{height} pixels ({one_line(error)}); "
            "give it an `input_size`, to which they are scaled"
        ) from None
    return DATA if network.size is None else network.size[0]
