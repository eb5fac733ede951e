"""Network registry: a name in an experiment file -> its options and its class.

This file does not import torch, so that an experiment can be checked and planned at once.
To add a network: write a module with a `Network` subclass, an options model here, and a line in
NETWORKS.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from harness.networks.base import Network


def valid_depth(network: str, depth: int, remainder: int) -> int:
    """`depth` itself if it is 6n + remainder.

    Raises:
        ValueError: any other depth; the message names the nearest valid ones.
    """
    n, rest = divmod(depth - remainder, 6)
    if rest == 0 and n >= 1:
        return depth
    near = str(6 + remainder) if n < 1 else f"{6 * n + remainder} or {6 * (n + 1) + remainder}"
    raise ValueError(f"{depth} is no depth of {network} (6n+{remainder}); use {near}")


class NetworkOptions(BaseModel):
    """One network of an experiment: the registry name and the class's plain arguments."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    network: str
    n_maps: ClassVar[int]  # of `Network.feature_maps`

    @property
    def label(self) -> str:
        """Short name used for columns, run names and the published CSV files."""
        raise NotImplementedError


Dropout = Annotated[float, Field(ge=0, lt=1)]


class WideResNetOptions(NetworkOptions):
    network: Literal["wide_resnet"] = "wide_resnet"
    n_maps: ClassVar[int] = 3
    depth: Annotated[int, AfterValidator(lambda d: valid_depth("wide_resnet", d, 4))]
    width: Annotated[int, Field(ge=1)]
    dropout: Dropout = 0.3
    final_bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.9

    @property
    def label(self) -> str:
        return f"wrn-{self.depth}-{self.width}"


class ResNetOptions(NetworkOptions):
    network: Literal["resnet"] = "resnet"
    n_maps: ClassVar[int] = 3
    depth: Annotated[int, AfterValidator(lambda d: valid_depth("resnet", d, 2))]

    @property
    def label(self) -> str:
        return f"resnet-{self.depth}"


class MobileNetOptions(NetworkOptions):
    network: Literal["mobile_net"] = "mobile_net"
    n_maps: ClassVar[int] = 5
    ca: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    dropout: Dropout = 0.0

    @property
    def label(self) -> str:
        return f"mobilenet-{self.ca:.2f}"


class PixelsOptions(NetworkOptions):
    """height, width: of the images that it gets."""

    network: Literal["pixels"] = "pixels"
    n_maps: ClassVar[int] = 1
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]

    @property
    def label(self) -> str:
        return self.network

    @property
    def features(self) -> int:
        """Of an image: three channels of each pixel."""
        return 3 * self.height * self.width


# name -> (options, "module:class"); the class is imported when it is built.
NETWORKS: dict[str, tuple[type[NetworkOptions], str]] = {
    "wide_resnet": (WideResNetOptions, "harness.networks.wide_resnet:WideResNet"),
    "resnet": (ResNetOptions, "harness.networks.resnet:ResNet"),
    "mobile_net": (MobileNetOptions, "harness.networks.mobile_net:MobileNet"),
}
# What cells have where a method looks at the images alone; no experiment names it.
PIXELS = "pixels"
UNNAMED: dict[str, tuple[type[NetworkOptions], str]] = {
    PIXELS: (PixelsOptions, "harness.networks.pixels:Pixels"),
}


def build(name: str, n_classes: int, **options: Any) -> Network:
    """A freshly initialised network.

    Args:
        name: a key of NETWORKS or UNNAMED.
        n_classes: outputs of the last linear layer.
        options: the fields of that network's options model; its defaults apply.

    Raises:
        pydantic.ValidationError: an unknown, missing or impossible option.
        KeyError: an unknown network.
    """
    model, target = (NETWORKS | UNNAMED)[name]
    checked = model(network=name, **options).model_dump(exclude={"network"})
    return pkgutil.resolve_name(target)(n_classes, **checked)
