"""No network: the pixels are the embedding, for methods that look at the images alone."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.networks.options import NetworkOptions, register_network

PIXELS = "pixels"


@register_network
class PixelsOptions(NetworkOptions):
    """Options of `harness.networks.pixels.network.Pixels`.

    Attributes:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """

    module: ClassVar[str] = "harness.networks.pixels.network:Pixels"
    n_maps: ClassVar[int] = 1
    is_selectable: ClassVar[bool] = False

    network: Literal["pixels"] = "pixels"
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]

    @property
    def label(self) -> str:
        """The short name of the network."""
        return self.network

    @property
    def n_features(self) -> int:
        """The number of values of an image: three channels of each pixel."""
        return 3 * self.height * self.width
