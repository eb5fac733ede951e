"""Make a classifier of torchvision, and find the weights that torchvision has a name for."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torchvision import models

from harness.common.errors import UserError, nearest
from harness.networks.foreign import NamedWeights, Normalisation
from harness.networks.torchvision import TorchvisionOptions
from harness.networks.wrapped import Made, cached_file, call_builder

# Without the auxiliary classifiers, whose logits no method uses. Initial weights are drawn, as
# torchvision does while it warns that it will not do so one day.
INCEPTIONS: dict[str, Any] = {"aux_logits": False, "init_weights": True}
AUXILIARY = re.compile(r"^(aux[12]|AuxLogits)\.")
# The published files of DenseNets have older names: denselayer1.norm.1.weight.
OLD_DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\..*)$")


def make(options: TorchvisionOptions, n_classes: int) -> Made:
    """Return a classifier of torchvision, and the input of its weights by default.

    Raises:
        UserError: There is none of that name, or it does not take these options.
    """
    name = checked_name(options.name)
    settings = options.builder_options
    if name in ("googlenet", "inception_v3"):
        # Their weights expect another normalisation, and convert to it, if they are told to.
        settings = INCEPTIONS | {"transform_input": options.weights is not None} | settings
    where = f"torchvision's {name}"
    module = call_builder(models.get_model_builder(name), where, n_classes, settings)
    configuration = models.get_model_weights(name)
    size, mean, std = _input_of(next(iter(configuration)).transforms())
    if isinstance(module, models.VisionTransformer):
        size = module.image_size  # an option of these
    return Made(module, (size, size), Normalisation(mean=mean, std=std), renamed=renamed)


def checked_name(name: str) -> str:
    """Return the name of a classifier.

    Raises:
        UserError: There is none.
    """
    names = models.list_models(module=models)  # without detection, segmentation, quantised, video
    if name not in names:
        raise UserError(f"name: torchvision has no classifier {name!r}{nearest(name, names)}")
    return name


def _input_of(transforms: Any) -> tuple[int, Any, Any]:
    return transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return published weights under today's names, without auxiliary classifiers."""
    return {
        OLD_DENSE_LAYER.sub(r"\1\2", name): tensor
        for name, tensor in state.items()
        if not AUXILIARY.match(name)
    }


def find_weights(name: str, weights: str) -> NamedWeights:
    """Return the weights that torchvision has a name for, such as IMAGENET1K_V1 or DEFAULT.

    Raises:
        ValueError: There are none, or their file is not in PyTorch's cache.
    """
    try:
        known = models.get_model_weights(checked_name(name))
    except UserError as error:
        raise ValueError(str(error)) from None
    wanted = weights.rpartition(".")[2]
    if wanted not in known.__members__:
        near = nearest(wanted, {*known.__members__})
        raise ValueError(f"weights: torchvision has no {weights!r} of {name}{near}")
    entry = known[wanted]
    return NamedWeights(cached_file(weights, name, entry.url), *_input_of(entry.transforms()))
