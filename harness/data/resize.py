"""A batch of crops of many sizes, resized at once: antialiased bilinear, as torchvision does it.

Resizing is linear and separable, so it is two matrix products a batch.
"""

import torch
from torch import Tensor


def weights(sizes: Tensor, longest: int, out: int) -> Tensor:
    """(B, out, longest) float32: row i of a matrix holds the weights of the input pixels in output
    pixel i. A triangle of the width of an output pixel (but of one input pixel at least) about its
    centre, as in Pillow and in `interpolate(mode="bilinear", antialias=True)`.

    Args:
        sizes: (B,) int64 length of each input; what lies beyond has no weight.
        longest: length of the longest.
        out: length of the output.
    """
    scale = (sizes / out)[:, None, None]
    pixel = torch.arange(longest, device=sizes.device)
    center = (torch.arange(out, device=sizes.device) + 0.5)[:, None] * scale
    distance = (pixel + 0.5 - center) / scale.clamp(min=1)
    weight = (1 - distance.abs()).clamp(min=0) * (pixel < sizes[:, None, None])
    return weight / weight.sum(-1, keepdim=True)


def resampled(canvas: Tensor, sizes: Tensor, flips: Tensor, out: int) -> Tensor:
    """Each image, from its size to (out, out), and mirrored where `flips` says so.

    Args:
        canvas: (B, H, W, 3) uint8, image b in its first sizes[b] rows and columns.
        sizes: (B, 2) int64 height and width.
        flips: (B,) bool.

    Returns:
        (B, out, out, 3) float32 of 0 to 255, contiguous.
    """
    n, height, width, _ = canvas.shape
    # Whoever asks for batches inside an autocast block must not get crops in bfloat16.
    with torch.autocast(canvas.device.type, enabled=False):
        down = weights(sizes[:, 0], height, out)
        across = weights(sizes[:, 1], width, out)
        across = torch.where(flips[:, None, None], across.flip(1), across)
        rows = torch.bmm(down, canvas.view(n, height, width * 3).float())
        columns = rows.view(n, out, width, 3).transpose(1, 2).reshape(n, width, out * 3)
        pixels = torch.bmm(across, columns).view(n, out, out, 3)
    return pixels.transpose(1, 2).contiguous()
