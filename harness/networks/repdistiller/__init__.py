"""Options of the networks of the CRD benchmark (RepDistiller; Tian et al., ICLR 2020).

- `network`: what they have in common.
- `resnet`, `wrn`, `vgg`, `mobile_net_v2`, `shuffle_net`: the torch modules.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

from harness.common.errors import nearest
from harness.networks.options import NetworkOptions, Shape, n_blocks, n_rows, register_network

if TYPE_CHECKING:
    from harness.networks.base import Network


class Architecture(NamedTuple):
    """A network of the benchmark.

    Attributes:
        module: The torch module, as "MODULE:CLASS" of this package.
        n_maps: The number of its maps.
        arguments: What its class is given after the number of classes.
    """

    module: str
    n_maps: int
    arguments: tuple[Any, ...] = ()


def _resnet(depth: int, *channels: int) -> Architecture:
    return Architecture("resnet:ResNet", 3, ((depth - 2) // 6, channels))


def _wrn(depth: int, width: int) -> Architecture:
    return Architecture("wrn:WideResNet", 3, ((depth - 4) // 6, width))


# By the names of the benchmark's files and tables.
ARCHITECTURES: dict[str, Architecture] = {
    **{f"resnet{d}": _resnet(d, 16, 16, 32, 64) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{d}x4": _resnet(d, 32, 64, 128, 256) for d in (8, 32)},
    "ResNet50": Architecture("resnet:ResNet50", 4),
    **{f"wrn_{d}_{w}": _wrn(d, w) for d in (16, 40) for w in (1, 2)},
    "vgg8": Architecture("vgg:VGG", 4, (1, 1, 1, 1, 1)),
    "vgg11": Architecture("vgg:VGG", 4, (1, 1, 2, 2, 2)),
    "vgg13": Architecture("vgg:VGG", 4, (2, 2, 2, 2, 2)),
    "vgg16": Architecture("vgg:VGG", 4, (2, 2, 3, 3, 3)),
    "vgg19": Architecture("vgg:VGG", 4, (2, 2, 4, 4, 4)),
    "MobileNetV2": Architecture("mobile_net_v2:MobileNetV2", 4),
    "ShuffleV1": Architecture("shuffle_net:ShuffleNetV1", 3),
    "ShuffleV2": Architecture("shuffle_net:ShuffleNetV2", 3),
}


def _check_name(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"the benchmark has no {name!r}{nearest(name, ARCHITECTURES)}")
    return name


@register_network
class RepDistillerOptions(NetworkOptions):
    """Options of the networks of the CRD benchmark, which have the benchmark's own names."""

    names: ClassVar[tuple[str, ...]] = (*ARCHITECTURES,)

    network: Literal["repdistiller"] = "repdistiller"
    name: Annotated[
        str,
        AfterValidator(_check_name),
        WithJsonSchema({"type": "string", "enum": [*ARCHITECTURES]}),
    ]

    @property
    def n_maps(self) -> int:  # type: ignore[override]
        """The number of `Network.feature_maps`."""
        return ARCHITECTURES[self.name].n_maps

    @property
    def label(self) -> str:
        """The name in the benchmark's tables, as wrn-40-2 or ShuffleNetV1."""
        return self.name.replace("_", "-").replace("Shuffle", "ShuffleNet")

    def build(self, n_classes: int) -> Network:
        """Return a network with random weights."""
        module, _, arguments = ARCHITECTURES[self.name]
        network: Network = pkgutil.resolve_name(f"{__name__}.{module}")(n_classes, *arguments)
        return network

    @classmethod
    def fields_of_checkpoint(cls, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """Return the options of a checkpoint of the benchmark, or None."""
        name = _name_of(shapes)
        return {"network": "repdistiller", "name": name} if name in ARCHITECTURES else None


def _name_of(shapes: Mapping[str, Shape]) -> str | None:
    """Return the name of the architecture with these shapes, which may not exist, or None."""
    if "layer3.0.downsample.0.weight" in shapes and "layer4.0.conv1.weight" not in shapes:
        depth = 6 * n_blocks(shapes, "layer1") + 2
        return f"resnet{depth}" + ("x4" if n_rows(shapes, "conv1.weight") == 32 else "")
    if "block1.layer.0.conv1.weight" in shapes:
        n = len({name.split(".")[2] for name in shapes if name.startswith("block1.")})
        return f"wrn_{6 * n + 4}_{n_rows(shapes, 'block1.layer.0.conv1.weight') // 16}"
    if {"block0.0.weight", "classifier.weight"} <= shapes.keys():
        return f"vgg{sum(len(shape) == 4 for shape in shapes.values()) + 3}"
    if {"blocks.0.0.conv.0.weight", "classifier.0.weight"} <= shapes.keys():
        return "MobileNetV2"
    if {"layer1.0.conv3.weight", "linear.weight"} <= shapes.keys():
        if "layer4.0.conv3.weight" in shapes:
            return "ResNet50"
        return "ShuffleV2" if "conv2.weight" in shapes else "ShuffleV1"
    return None
