"""Options of the CIFAR residual networks."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from harness.networks.options import NetworkOptions, Shape, check_depth, n_blocks, register_network


@register_network
class ResNetOptions(NetworkOptions):
    """Options of `harness.networks.resnet.network.ResNet`."""

    module: ClassVar[str] = "harness.networks.resnet.network:ResNet"
    n_maps: ClassVar[int] = 3
    size: ClassVar[str] = "depth"

    network: Literal["resnet"] = "resnet"
    depth: Annotated[int, AfterValidator(lambda d: check_depth("resnet", d, 2))]

    @property
    def label(self) -> str:
        """The short name of the network."""
        return f"resnet-{self.depth}"

    @classmethod
    def fields_of_checkpoint(cls, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """Return the options of a published checkpoint, or None."""
        if not {"bn1.weight", "layer1.0.conv1.weight", "fc.weight"} <= shapes.keys():
            return None
        return {"network": "resnet", "depth": 6 * n_blocks(shapes, "layer1") + 2}
