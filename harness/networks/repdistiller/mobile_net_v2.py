"""MobileNetV2 (Sandler et al., CVPR 2018) of half the width, with the benchmark's strides."""

from collections.abc import Iterator

from torch import Tensor, nn

from harness.networks.repdistiller.network import BenchmarkNetwork, draw_convolutions

# Expansion, output channels, number of blocks, and stride of the first, of each group.
GROUPS = (
    (1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2),
    (6, 160, 1, 1),
)  # fmt: skip
MAPS = (1, 2, 4, 6)  # groups whose outputs are the maps


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution that keeps the size divided by the stride, and its BN."""
    made = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [made, nn.BatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """Expansion, depthwise conv3x3, projection; plus the input where nothing changes its shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.conv = nn.Sequential(
            *convolution(in_channels, inner, 1),
            nn.ReLU(inplace=True),
            *convolution(inner, inner, 3, stride, groups=inner),
            nn.ReLU(inplace=True),
            *convolution(inner, out_channels, 1),
        )
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out: Tensor = self.conv(x)
        return out.add_(x) if self.adds_input else out


class MobileNetV2(BenchmarkNetwork):
    """A strided stem, seven groups of inverted residuals, and a 1x1 convolution."""

    head = "classifier.0"

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*convolution(3, 16, 3, 2), nn.ReLU(inplace=True))
        in_channels = 16
        self.blocks = nn.ModuleList()
        for expansion, channels, n_blocks, stride in GROUPS:
            group = nn.Sequential()
            for i in range(n_blocks):
                first = stride if i == 0 else 1
                group.append(InvertedResidual(in_channels, channels, first, expansion))
                in_channels = channels
            self.blocks.append(group)
        self.embedding_dim = 1280
        self.conv2 = nn.Sequential(
            *convolution(in_channels, self.embedding_dim, 1), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Sequential(nn.Linear(self.embedding_dim, n_classes))
        self.map_channels = tuple(GROUPS[i][1] for i in MAPS)
        draw_convolutions(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Return the first convolution, BN and ReLU (B, 16, H/2, W/2)."""
        out: Tensor = self.conv1(x)
        return out

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the outputs of four groups, before any ReLU.

        Yields:
            (B, 12, H/2, W/2), (B, 16, H/4, W/4), (B, 48, H/8, W/8), (B, 160, H/16, W/16), with
            heights and widths rounded up.
        """
        out = self.stem(x)
        for i, group in enumerate(self.blocks):
            out = group(out)
            if i in MAPS:
                yield out

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels, after the 1x1 convolution, BN and ReLU."""
        return super().pool(self.conv2(deepest))
