"""Options of the wide residual networks."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from harness.networks.options import (
    Dropout,
    NetworkOptions,
    Shape,
    Width,
    check_depth,
    n_blocks,
    n_rows,
    register_network,
)


@register_network
class WideResNetOptions(NetworkOptions):
    """Options of `harness.networks.wide_resnet.network.WideResNet`."""

    module: ClassVar[str] = "harness.networks.wide_resnet.network:WideResNet"
    n_maps: ClassVar[int] = 3
    size: ClassVar[str] = "(depth, width)"
    plain: ClassVar[Mapping[str, Any]] = {"dropout": 0.0, "final_bn_momentum": 0.1}

    network: Literal["wide_resnet"] = "wide_resnet"
    depth: Annotated[int, AfterValidator(lambda d: check_depth("wide_resnet", d, 4))]
    width: Width
    dropout: Dropout = 0.3
    final_bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.9

    @property
    def label(self) -> str:
        """The short name of the network."""
        return f"wrn-{self.depth}-{self.width}"

    @classmethod
    def fields_of_checkpoint(cls, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """Return the options of a published checkpoint, or None."""
        if not {"bn.weight", "layer1.0.conv1.weight"} <= shapes.keys():
            return None
        width = n_rows(shapes, "layer1.0.conv1.weight") // 16
        depth = 6 * n_blocks(shapes, "layer1") + 4
        return {"network": "wide_resnet", "depth": depth, "width": width}
