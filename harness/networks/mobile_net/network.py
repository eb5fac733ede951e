"""MobileNet (Howard et al., arXiv 1704.04861) with the stem and strides of the ReFilled releases.

Parameter names, shapes and order are those of the published checkpoints.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.base import Network

# Output channels before the multiplier, and stride, of each depthwise-separable block.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


class SeparableBlock(nn.Module):
    """Depthwise conv3x3, BN, ReLU, pointwise conv1x1, BN, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)), inplace=True)


class MobileNet(Network):
    """A strided 3x3 stem and thirteen depthwise-separable blocks, all channels times `ca`.

    Args:
        n_classes: The number of outputs of the last linear layer.
        ca: The channel multiplier in (0, 1], as the releases call it.
        dropout: The dropout probability of the embedding, in [0, 1). The releases ignore this
            argument; the default of 0 gives what the published numbers used.
    """

    def __init__(self, n_classes: int, ca: float, dropout: float) -> None:
        super().__init__()
        in_channels = int(32 * ca)
        self.conv1 = nn.Conv2d(3, in_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        blocks, at_strides = [], []
        for channels, stride in BLOCKS:
            if stride != 1:
                at_strides.append(in_channels)
            out_channels = int(channels * ca)
            blocks.append(SeparableBlock(in_channels, out_channels, stride))
            in_channels = out_channels
        self.layers = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, n_classes)
        self.embedding_dim = in_channels
        self.map_channels = (*at_strides, in_channels)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the input of each strided block and the last output, all after a ReLU.

        Yields:
            (B, 64ca, H/2, W/2), (B, 128ca, H/4, W/4), .., (B, 1024ca, H/32, W/32), with heights and
            widths rounded up.
        """
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for block, (_, stride) in zip(self.layers, BLOCKS, strict=True):
            if stride != 1:
                yield out
            out = block(out)
        yield out

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels, after dropout."""
        return self.dropout(torch.flatten(F.adaptive_avg_pool2d(deepest, 1), 1))
