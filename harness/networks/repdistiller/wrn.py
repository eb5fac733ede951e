"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146) without dropout."""

from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.repdistiller.network import BenchmarkNetwork, draw_convolutions


class PreActivationBlock(nn.Module):
    """BN, ReLU, conv3x3 with stride, BN, ReLU, conv3x3; plus the input.

    Where the channels change, it is the activated input, after a strided conv1x1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (
            None
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        active = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out.add_(x if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    """Blocks of which the first changes channels and size, under the name that checkpoints have."""

    def __init__(self, in_channels: int, out_channels: int, n_blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            PreActivationBlock(in_channels, out_channels, stride),
            *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(n_blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, H, W)."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(BenchmarkNetwork):
    """Three groups with 16, 32 and 64 channels times `width`; their maps are sums before a BN.

    Args:
        n_classes: The number of outputs of the last linear layer.
        n_blocks: The blocks of a group.
        width: The channel multiplier.
    """

    group_names = ("block1", "block2", "block3")

    def __init__(self, n_classes: int, n_blocks: int, width: int) -> None:
        super().__init__()
        channels = (16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Group(16, channels[0], n_blocks, 1)
        self.block2 = Group(channels[0], channels[1], n_blocks, 2)
        self.block3 = Group(channels[1], channels[2], n_blocks, 2)
        self.bn1 = nn.BatchNorm2d(channels[2])
        self.fc = nn.Linear(channels[2], n_classes)
        self.embedding_dim = channels[2]
        self.map_channels = channels
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Return the first convolution (B, 16, H, W)."""
        out: Tensor = self.conv1(x)
        return out

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels, after batch norm and ReLU."""
        return super().pool(F.relu(self.bn1(deepest), inplace=True))
