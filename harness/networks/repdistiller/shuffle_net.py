"""ShuffleNet V1 and V2 for small images: a 1x1 stem that keeps their size, and no pooling.

V1: Zhang et al., CVPR 2018, three groups, width 1; V2: Ma et al., ECCV 2018, width 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.repdistiller.network import BenchmarkNetwork

STEM_CHANNELS = 24


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Return (B, C, H, W) with its channels dealt out: one of each group, then the next of each."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    """Return a conv3x3 of each channel alone."""
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def pointwise(in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    """Return a conv1x1."""
    return nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)


class UnitV1(nn.Module):
    """Grouped conv1x1, shuffle, depthwise conv3x3, grouped conv1x1; beside or plus the input.

    A strided unit puts the input, averaged over 3x3 pixels, beside its output; any other adds it.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        own = out_channels - in_channels if stride == 2 else out_channels
        inner = own // 4
        self.groups = 1 if in_channels == STEM_CHANNELS else 3
        self.conv1 = pointwise(in_channels, inner, self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = depthwise(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = pointwise(inner, own, 3)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out = shuffle(F.relu(self.bn1(self.conv1(x)), inplace=True), self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            out = torch.cat([out, F.avg_pool2d(x, 3, 2, padding=1)], 1)
        else:
            out = out.add_(x)
        return F.relu(out, inplace=True)


class UnitV2(nn.Module):
    """The first half of the channels, beside three convolutions of the second half; shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = pointwise(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise(half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = pointwise(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H, W) for the same shape."""
        kept, out = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)), inplace=True)
        return shuffle(torch.cat([kept, out], 1), 2)


class DownUnitV2(nn.Module):
    """Two branches with stride 2 side by side, shuffled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = depthwise(in_channels, 2)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = pointwise(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = pointwise(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise(half, 2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = pointwise(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H/2, W/2) for (B, in_channels, H, W)."""
        short = self.bn1(self.conv1(x))
        short = F.relu(self.bn2(self.conv2(short)), inplace=True)
        long = F.relu(self.bn3(self.conv3(x)), inplace=True)
        long = self.bn4(self.conv4(long))
        long = F.relu(self.bn5(self.conv5(long)), inplace=True)
        return shuffle(torch.cat([short, long], 1), 2)


class ShuffleNet(BenchmarkNetwork):
    """A 1x1 convolution, then three groups of 4, 8 and 4 units, the first of each strided.

    Args:
        map_channels: The output channels of each group.
        first: Makes the first unit of a group from its input and output channels.
        other: Makes each of the other units from its channels.
    """

    head = "linear"

    def __init__(
        self,
        map_channels: tuple[int, int, int],
        first: Callable[[int, int], nn.Module],
        other: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1 = pointwise(3, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.map_channels = map_channels
        in_channels = STEM_CHANNELS
        for name, channels, n in zip(self.group_names, map_channels, (4, 8, 4), strict=True):
            units = first(in_channels, channels), *(other(channels) for _ in range(n - 1))
            self.add_module(name, nn.Sequential(*units))
            in_channels = channels


class ShuffleNetV1(ShuffleNet):
    """ShuffleNet with grouped convolutions (Zhang et al., CVPR 2018)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__((240, 480, 960), lambda i, o: UnitV1(i, o, 2), lambda c: UnitV1(c, c, 1))
        self.embedding_dim = self.map_channels[-1]
        self.linear = nn.Linear(self.embedding_dim, n_classes)


class ShuffleNetV2(ShuffleNet):
    """ShuffleNet V2 (Ma et al., ECCV 2018), with another 1x1 convolution in the end."""

    def __init__(self, n_classes: int) -> None:
        super().__init__((116, 232, 464), DownUnitV2, UnitV2)
        self.embedding_dim = 1024
        self.conv2 = pointwise(self.map_channels[-1], self.embedding_dim)
        self.bn2 = nn.BatchNorm2d(self.embedding_dim)
        self.linear = nn.Linear(self.embedding_dim, n_classes)

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels, after the 1x1 convolution, BN and ReLU."""
        return super().pool(F.relu(self.bn2(self.conv2(deepest)), inplace=True))
