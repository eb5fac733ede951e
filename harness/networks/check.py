"""What an experiment's networks are found to be, before anything trains."""

from __future__ import annotations

import torch

from harness.common.errors import UserError, one_line
from harness.networks.base import ShapesOnly
from harness.networks.foreign import ForeignOptions
from harness.networks.options import NetworkOptions
from harness.networks.pretrained import load_weights
from harness.networks.wrapped import PROBE_CLASSES, WrappedNetwork, layout_of


def examine(options: NetworkOptions, height: int, width: int) -> NetworkOptions:
    """Return a network's options with its maps, after trying it on images of this size.

    Files of weights are read, and loaded into a network.

    Raises:
        UserError: There is no such network, it cannot take these images, or its files do not fit.
    """
    if isinstance(options, ForeignOptions):
        maps = tuple(each.name for each in layout_of(options).maps)
        _try(options, height, width)
        options = options.model_copy(update={"maps": maps})
    if options.weights:
        load_weights(options.build(PROBE_CLASSES), options.weights)
    return options


def _try(options: ForeignOptions, height: int, width: int) -> None:
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
