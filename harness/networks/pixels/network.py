"""No network: the pixels are the embedding."""

from collections.abc import Iterator

from torch import Tensor, nn

from harness.networks.base import Network


class Pixels(Network):
    """The embedding of an image is its normalised pixels, channel after channel, row after row."""

    def __init__(self, n_classes: int, height: int, width: int) -> None:
        super().__init__()
        self.embedding_dim = 3 * height * width
        self.map_channels = (3,)
        self.fc = nn.Linear(self.embedding_dim, n_classes)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the images themselves, (B, 3, H, W)."""
        yield x

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the pixels, (B, 3 * height * width)."""
        return deepest.flatten(1)
