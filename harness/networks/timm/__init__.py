"""Options of the networks of timm."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from harness.networks.foreign import ForeignOptions
from harness.networks.options import register_network


def _without_tag(name: str) -> str:
    model, dot, tag = name.partition(".")
    if dot:
        raise ValueError(
            f"{tag!r} is the tag of weights; write `name: {model}` and, to start from them, "
            f"`weights: {tag}`"
        )
    return name


@register_network
class TimmOptions(ForeignOptions):
    """Options of a network of timm.

    Attributes:
        name: Its name in timm, without the tag of its weights.
    """

    library: ClassVar[str] = "harness.networks.timm.network"

    network: Literal["timm"] = "timm"
    name: Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_without_tag)]

    @property
    def label(self) -> str:
        """The short name of the network, which torchvision may have, too."""
        return self.labelled(f"timm-{self.name}")
