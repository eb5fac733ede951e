"""Residual networks (He et al., CVPR 2016) with 1x1 convolutions in the shortcuts (option B)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.repdistiller.network import BenchmarkNetwork, draw_convolutions, shortcut


class BasicBlock(nn.Module):
    """conv3x3, BN, ReLU, conv3x3, BN; plus the shortcut; ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(out.add_(self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """conv1x1, conv3x3 and conv1x1 to four times the channels, with BN; plus the shortcut; ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out.add_(self.shortcut(x)), inplace=True)


def group(
    block: type[nn.Module], in_channels: int, out_channels: int, n_blocks: int, stride: int
) -> nn.Sequential:
    """Return blocks of which the first changes channels and size."""
    first = block(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(block(out_channels, out_channels, 1) for _ in range(n_blocks - 1))
    )


class ResNet(BenchmarkNetwork):
    """Three groups of basic blocks.

    Args:
        n_classes: The number of outputs of the last linear layer.
        n_blocks: The blocks of a group.
        channels: The output channels of the stem and of each group.
    """

    def __init__(self, n_classes: int, n_blocks: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = group(BasicBlock, channels[0], channels[1], n_blocks, 1)
        self.layer2 = group(BasicBlock, channels[1], channels[2], n_blocks, 2)
        self.layer3 = group(BasicBlock, channels[2], channels[3], n_blocks, 2)
        self.fc = nn.Linear(channels[3], n_classes)
        self.embedding_dim = channels[3]
        self.map_channels = tuple(channels[1:])
        draw_convolutions(self)


class ResNet50(BenchmarkNetwork):
    """Four groups of 3, 4, 6 and 3 bottlenecks; the stem keeps the size of the image."""

    head = "linear"
    group_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(Bottleneck, 64, 256, 3, 1)
        self.layer2 = group(Bottleneck, 256, 512, 4, 2)
        self.layer3 = group(Bottleneck, 512, 1024, 6, 2)
        self.layer4 = group(Bottleneck, 1024, 2048, 3, 2)
        self.linear = nn.Linear(2048, n_classes)
        self.embedding_dim = 2048
        self.map_channels = (256, 512, 1024, 2048)
        draw_convolutions(self)
