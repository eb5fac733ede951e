"""VGG (Simonyan and Zisserman, ICLR 2015) with batch norm and one linear layer."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.repdistiller.network import BenchmarkNetwork, draw_convolutions

CHANNELS = (64, 128, 256, 512, 512)
LARGE = 64  # height from which the last block too is pooled


def block(in_channels: int, channels: int, n_convolutions: int) -> nn.Sequential:
    """Return conv3x3, BN and ReLU, repeated."""
    modules: list[nn.Module] = []
    for _ in range(n_convolutions):
        convolution = nn.Conv2d(in_channels, channels, 3, padding=1)
        modules += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*modules)


class VGG(BenchmarkNetwork):
    """Five blocks of convolutions, of which the first is the stem.

    Args:
        n_classes: The number of outputs of the last linear layer.
        n_convolutions: The convolutions of each block.
    """

    head = "classifier"
    group_names = ("block1", "block2", "block3", "block4")

    def __init__(self, n_classes: int, *n_convolutions: int) -> None:
        super().__init__()
        pairs = zip((3, *CHANNELS), CHANNELS, n_convolutions, strict=False)
        for i, (in_channels, channels, n) in enumerate(pairs):
            self.add_module(f"block{i}", block(in_channels, channels, n))
        self.classifier = nn.Linear(CHANNELS[-1], n_classes)
        self.embedding_dim = CHANNELS[-1]
        self.map_channels = CHANNELS[1:]
        draw_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Return the first block (B, 64, H, W)."""
        return self.get_submodule("block0")(x)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the outputs of the other blocks.

        Between two blocks, the larger of two by two pixels is taken; between the last two only if
        the image has at least 64 lines.

        Yields:
            (B, 128, H/2, W/2), (B, 256, H/4, W/4), then (B, 512, H/8, W/8) twice, or the last one
            halved; heights and widths are rounded down.
        """
        out = self.stem(x)
        for name in self.group_names:
            if name != self.group_names[-1] or x.shape[2] >= LARGE:
                out = F.max_pool2d(out, 2)
            out = self.get_submodule(name)(out)
            yield out
