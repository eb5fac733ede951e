"""The parts that the networks of the CRD benchmark have in common.

Parameter names, shapes and order are those of the benchmark's checkpoints. Its first feature, the
output of the stem, is compared by none of its methods, so it is no map here; map 2 of FitNet is the
benchmark's `--hint_layer 2`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.base import Network


class BenchmarkNetwork(Network):
    """A stem, groups of blocks and the mean over the pixels.

    Attributes:
        conv1: The first convolution.
        bn1: Its batch norm, where it has one.
        group_names: The submodules whose outputs are the maps, one after the other.
    """

    conv1: nn.Module
    bn1: nn.Module
    group_names: tuple[str, ...] = ("layer1", "layer2", "layer3")

    def stem(self, x: Tensor) -> Tensor:
        """Return the input of the first group, the benchmark's first feature (B, channels, h, w).

        Args:
            x: Normalised images, (B, 3, H, W).
        """
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output (B, channels, h, w) of each group."""
        out = self.stem(x)
        for name in self.group_names:
            out = self.get_submodule(name)(out)
            yield out

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the mean over the pixels."""
        return torch.flatten(F.adaptive_avg_pool2d(deepest, 1), 1)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return a strided conv1x1 and BN, or nothing where the block changes no shape."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def draw_convolutions(network: nn.Module) -> None:
    """Draw the convolutions as the benchmark does: He et al., ICCV 2015, over the fan-out; no bias.

    The fan-out counts all output channels, also where a convolution has groups.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
