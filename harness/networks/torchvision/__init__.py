"""Options of the classifiers of torchvision."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.networks.foreign import ForeignOptions
from harness.networks.options import register_network


@register_network
class TorchvisionOptions(ForeignOptions):
    """Options of a classifier of torchvision.

    Attributes:
        name: Its name in `torchvision.models`.
    """

    library: ClassVar[str] = "harness.networks.torchvision.network"

    network: Literal["torchvision"] = "torchvision"
    name: Annotated[str, Field(min_length=1, max_length=80)]

    @property
    def label(self) -> str:
        """The short name of the network."""
        return self.labelled(self.name)
