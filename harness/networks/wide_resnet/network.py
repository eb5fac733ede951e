"""Wide residual network (Zagoruyko and Komodakis, arXiv 1605.07146), as in the ReFilled releases.

Parameter names, shapes and order are those of the published checkpoints.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.base import Network


class PreActivationBlock(nn.Module):
    """BN, ReLU, conv3x3, BN, ReLU, dropout, conv3x3 with stride; plus the raw input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        out = self.conv2(self.dropout(F.relu(self.bn2(out), inplace=True)))
        return out.add_(self.shortcut(x))


class WideResNet(Network):
    """Pre-activation network of three groups with 16, 32 and 64 channels times `width`.

    Args:
        n_classes: The number of outputs of the last linear layer.
        depth: 6n + 4 with n >= 1 blocks per group (the options check it).
        width: The channel multiplier, at least 1.
        dropout: The dropout probability inside each block, in [0, 1).
        final_bn_momentum: PyTorch's momentum of the last batch norm; the releases use 0.9
            (docs/protocol.md, quirk 6) where every other layer has 0.1.
    """

    def __init__(
        self, n_classes: int, depth: int, width: int, dropout: float, final_bn_momentum: float
    ) -> None:
        super().__init__()
        n_blocks = (depth - 4) // 6
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1)
        for group in (1, 2, 3):
            stride = 1 if group == 1 else 2
            blocks = [
                PreActivationBlock(
                    channels[group - 1] if i == 0 else channels[group],
                    channels[group],
                    stride if i == 0 else 1,
                    dropout,
                )
                for i in range(n_blocks)
            ]
            self.add_module(f"layer{group}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels[3], momentum=final_bn_momentum)
        self.fc = nn.Linear(channels[3], n_classes)
        self.embedding_dim = channels[3]
        self.map_channels = tuple(channels[1:])

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the sums at the end of each group, before the batch norm and ReLU of the next.

        Yields:
            (B, 16w, H, W), (B, 32w, H/2, W/2), (B, 64w, H/4, W/4), where w is the width.
        """
        out = self.conv1(x)
        for group in (1, 2, 3):
            out = self.get_submodule(f"layer{group}")(out)
            yield out

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels, after batch norm and ReLU."""
        out = F.relu(self.bn(deepest), inplace=True)
        return torch.flatten(F.adaptive_avg_pool2d(out, 1), 1)
