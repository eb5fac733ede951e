"""Resize a batch of crops of many sizes at once: antialiased bilinear, as torchvision does it.

Resizing is linear and separable, so it takes two matrix products per batch.
"""

import torch
from torch import Tensor


def bilinear_weights(sizes: Tensor, longest: int, out: int) -> Tensor:
    """Return the weight of each input pixel in each output pixel, (B, out, longest) float32.

    A row is a triangle about the centre of its output pixel, as wide as that pixel but at least as
    wide as an input pixel: as in Pillow and in `interpolate(mode="bilinear", antialias=True)`.

    Args:
        sizes: The length of each input, (B,) int64; pixels beyond it have no weight.
        longest: The length of the longest input.
        out: The length of the output.
    """
    scale = (sizes / out)[:, None, None]
    pixel = torch.arange(longest, device=sizes.device)
    center = (torch.arange(out, device=sizes.device) + 0.5)[:, None] * scale
    distance = (pixel + 0.5 - center) / scale.clamp(min=1)
    weight = (1 - distance.abs()).clamp(min=0) * (pixel < sizes[:, None, None])
    return weight / weight.sum(-1, keepdim=True)


def resize_crops(canvas: Tensor, sizes: Tensor, flips: Tensor, out: int) -> Tensor:
    """Resize each image to (out, out) pixels, and mirror it if its flip says so.

    Args:
        canvas: (B, H, W, 3) uint8, with image b in its first sizes[b] rows and columns.
        sizes: Height and width of each image, (B, 2) int64.
        flips: (B,) bool.
        out: Height and width of the output.

    Returns:
        (B, out, out, 3) float32, 0 to 255, contiguous.
    """
    n, height, width, _ = canvas.shape
    # Inside a caller's autocast block, crops must not become bfloat16.
    with torch.autocast(canvas.device.type, enabled=False):
        # Both axes at once: on a GPU, every call is a kernel to launch.
        weights = bilinear_weights(sizes.T.reshape(-1), max(height, width), out)
        down, across = weights[:n, :, :height], weights[n:, :, :width]
        across = torch.where(flips[:, None, None], across.flip(1), across)
        rows = torch.bmm(down, canvas.view(n, height, width * 3).float())
        columns = rows.view(n, out, width, 3).transpose(1, 2).reshape(n, width, out * 3)
        pixels = torch.bmm(across, columns).view(n, out, out, 3)
    return pixels.transpose(1, 2).contiguous()
