"""No network: the pixels are the embedding, for methods that look at the images alone."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from harness.networks.options import NetworkOptions, register_network

if TYPE_CHECKING:
    from harness.networks.base import Network

PIXELS = "pixels"


@register_network
class PixelsOptions(NetworkOptions):
    """Options of `harness.networks.pixels.network.Pixels`.

    Attributes:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """

    n_maps: ClassVar[int] = 1
    is_selectable: ClassVar[bool] = False

    network: Literal["pixels"] = "pixels"
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]

    @property
    def label(self) -> str:
        """The short name of the network."""
        return self.network

    @property
    def n_features(self) -> int:
        """The number of values of an image: three channels of each pixel."""
        return 3 * self.height * self.width

    def build(self, n_classes: int) -> "Network":
        """Return a freshly initialised network."""
        from harness.networks.pixels.network import Pixels

        return Pixels(n_classes, self.height, self.width)
