"""Options of the MobileNets."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.networks.options import Dropout, NetworkOptions, Shape, n_rows, register_network


@register_network
class MobileNetOptions(NetworkOptions):
    """Options of `harness.networks.mobile_net.network.MobileNet`."""

    module: ClassVar[str] = "harness.networks.mobile_net.network:MobileNet"
    n_maps: ClassVar[int] = 5
    size: ClassVar[str] = "multiplier"

    network: Literal["mobile_net"] = "mobile_net"
    ca: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    dropout: Dropout = 0.0

    @property
    def label(self) -> str:
        """The short name of the network."""
        return f"mobilenet-{self.ca:.2f}"

    @classmethod
    def fields_of_checkpoint(cls, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """Return the options of a published checkpoint, or None."""
        if not {"conv1.weight", "layers.0.conv2.weight"} <= shapes.keys():
            return None
        return {"network": "mobile_net", "ca": round(n_rows(shapes, "conv1.weight") / 32, 4)}
