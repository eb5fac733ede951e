"""CIFAR residual network (He et al., CVPR 2016, section 4.2), option-A shortcuts.

Parameter names, shapes and order are those of the published checkpoints.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.base import Network


class BasicBlock(nn.Module):
    """conv3x3, BN, ReLU, conv3x3, BN; plus the input, subsampled and zero-padded (option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.pad = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.pad or self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out.add_(x), inplace=True)


class ResNet(Network):
    """Three groups of basic blocks with 16, 32 and 64 channels.

    Args:
        n_classes: The number of outputs of the last linear layer.
        depth: 6n + 2 with n >= 1 blocks per group (the options check it).
    """

    def __init__(self, n_classes: int, depth: int) -> None:
        super().__init__()
        n_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        in_channels = 16
        for group, channels in enumerate((16, 32, 64), start=1):
            blocks = []
            for i in range(n_blocks):
                blocks.append(BasicBlock(in_channels, channels, 2 if group > 1 and i == 0 else 1))
                in_channels = channels
            self.add_module(f"layer{group}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, n_classes)
        self.embedding_dim = 64
        self.map_channels = (16, 32, 64)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of each group, after a ReLU.

        Yields:
            (B, 16, H, W), (B, 32, H/2, W/2), (B, 64, H/4, W/4).
        """
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for group in (1, 2, 3):
            out = self.get_submodule(f"layer{group}")(out)
            yield out

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels."""
        return torch.flatten(F.adaptive_avg_pool2d(deepest, 1), 1)
