"""Batches of large images of many sizes: resized random crops from a memory-mapped store.

All crops of an epoch are drawn before its first batch, so the pixels do not depend on which process
cuts them: LoaderImages cuts on the CPU, with or without DataLoader workers; ResidentImages on a GPU
that holds all images. The two differ by rounding: the CPU's pixels are rounded to uint8, as
torchvision's are.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.v2 import functional

from harness.data.batches import Batch, Epoch, Images, batch_bounds, chunk_size, to_device
from harness.data.dataset import Dataset, ImageSet, ResizedCrop
from harness.data.operations import ImageOperations, change, draw_seeds
from harness.data.packed import PackedImages
from harness.data.resize import resize_crops

ATTEMPTS = 10  # as in torchvision
# Cutting takes some thirty kernels for any number of images, but memory for each of them.
CUT_AT_ONCE = 512


@dataclass(frozen=True)
class Crops:
    """The crops of an epoch.

    Attributes:
        order: The positions of the images, (N,).
        boxes: Top, left, height and width of each crop, in this order, (N, 4).
        flips: Whether to mirror each crop, (N,) bool.
        seeds: Of the operations on each crop, (N,); None for no operations.
    """

    order: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray
    seeds: np.ndarray | None = None


def center_crops(shapes: np.ndarray, size: int) -> Crops:
    """Return torchvision's CenterCrop of images of these heights and widths, (N, 2), in order."""
    corners = np.rint((shapes - size) / 2.0).astype(np.int64)
    boxes = np.concatenate([corners, np.full_like(corners, size)], axis=1)
    return Crops(np.arange(len(shapes)), boxes, np.zeros(len(shapes), bool))


def random_crops(
    shapes: np.ndarray, augmentation: ResizedCrop, generator: torch.Generator
) -> Crops:
    """Return a shuffled epoch of crops, mirrored with probability 1/2.

    They are drawn as by torchvision's RandomResizedCrop.get_params, for images of these heights and
    widths, (N, 2).
    """
    n = len(shapes)
    order = torch.randperm(n, generator=generator).numpy()

    def uniform(*size: int) -> np.ndarray:
        return torch.rand(*size, generator=generator, dtype=torch.float64).numpy()

    u_area, u_ratio, u_corner = uniform(n, ATTEMPTS), uniform(n, ATTEMPTS), uniform(n, 2)
    flips = (uniform(n) < 0.5) & augmentation.flip
    limits = shapes[order]
    (low, high), (narrow, wide) = augmentation.scale, augmentation.ratio
    area = limits.prod(1, keepdims=True) * (low + (high - low) * u_area)
    ratio = np.exp(np.log(narrow) + (np.log(wide) - np.log(narrow)) * u_ratio)
    sizes = np.rint(np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=-1))
    fits_in = ((sizes > 0) & (sizes <= limits[:, None])).all(-1)  # (N, attempts)
    chosen = sizes[np.arange(n), fits_in.argmax(1)].astype(np.int64)
    room = limits - chosen  # >= 0 where an attempt fits
    corners = np.minimum((u_corner * (room + 1)).astype(np.int64), room)

    # If no attempt fits: the central crop with the nearest ratio allowed.
    for i in np.flatnonzero(~fits_in.any(1)):
        height, width = limits[i].tolist()
        if width / height < narrow:
            height = round(width / narrow)
        elif width / height > wide:
            width = round(height * wide)
        chosen[i] = height, width
        corners[i] = (limits[i] - chosen[i]) // 2
    return Crops(order, np.concatenate([corners, chosen], axis=1), flips)


class LoaderImages(Images):
    """Crops that are cut and resized on the CPU, in `n_workers` processes (0: in this one).

    Those of an epoch go through random operations besides, if there are any.
    """

    is_resident = False

    def __init__(
        self,
        dataset: Dataset,
        part: ImageSet,
        device: torch.device,
        n_workers: int = 0,
        operations: ImageOperations | None = None,
    ) -> None:
        super().__init__(dataset, part, device)
        assert isinstance(dataset.augmentation, ResizedCrop), "DeviceImages does padded crops"
        assert isinstance(part.images, PackedImages), "large images come from a store"
        self.augmentation, self.images = dataset.augmentation, part.images
        self.n_workers, self.operations = n_workers, operations

    def plain(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the centre of every image once, in order."""
        size = self.augmentation.size
        batch_size = batch_size or chunk_size(self.device, size, size)
        crops = center_crops(self.images.shapes, size)
        stops = range(batch_size, len(self) + batch_size, batch_size)
        bounds = [(stop - batch_size, min(stop, len(self))) for stop in stops]
        return self._batches(crops, bounds, self.labels_cpu)

    def augmented(self, batch_size: int, generator: torch.Generator) -> Epoch:
        """Return every image once, shuffled and augmented, in the batches of `batch_bounds`."""
        crops = random_crops(self.images.shapes, self.augmentation, generator)
        if self.operations is not None:
            crops = replace(crops, seeds=draw_seeds(len(self), generator).numpy())
        labels = self.labels_cpu[torch.from_numpy(crops.order)]
        bounds = batch_bounds(len(self), batch_size)
        return Epoch(
            [labels[start:stop] for start, stop in bounds],
            lambda: self._batches(crops, bounds, labels),
            self.is_resident,
        )

    def _batches(
        self, crops: Crops, bounds: list[tuple[int, int]], labels_cpu: Tensor
    ) -> Iterator[Batch]:
        order_on = to_device(torch.from_numpy(crops.order), self.device)
        labels = self.labels[order_on]
        for (start, stop), pixels in zip(bounds, self._pixels(crops, bounds), strict=True):
            window = slice(start, stop)
            x = self.normalised(pixels)
            yield Batch(x, labels[window], labels_cpu[window], order_on[window])

    def _pixels(self, crops: Crops, bounds: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield the pixels of each batch on the device, (B, size, size, 3) uint8."""
        cutter = _Cutter(self.images, crops, bounds, self.augmentation.size, self.operations)
        return load_batches(cutter, len(bounds), self.device, self.n_workers)


def load_batches(
    cutter: TorchDataset[Tensor], n_batches: int, device: torch.device, n_workers: int
) -> Iterator[Tensor]:
    """Yield the pixels of each batch on the device, made in `n_workers` processes.

    Args:
        cutter: Item i is batch i.
        n_batches: The number of batches.
        device: Where the pixels are needed.
        n_workers: 0 for this process alone.
    """
    n_workers = min(n_workers, n_batches)
    loader = DataLoader(
        cutter,
        batch_size=None,  # an item is a batch
        num_workers=n_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # a loader draws a seed: not from the global stream
        multiprocessing_context="fork" if n_workers and sys.platform == "linux" else None,
        worker_init_fn=_start_worker,
    )
    batches = iter(loader)
    while True:
        try:
            pixels = next(batches, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise RuntimeError(
                "a loader worker died, as it does when shared memory (/dev/shm) is full; use "
                f"fewer --n-workers (0 needs none), or enlarge it: {error}"
            ) from error
        if pixels is None:
            return
        yield pixels.to(device, non_blocking=True)


def _start_worker(worker: int) -> None:
    _end_with_parent()
    # A batch that does not fit into shared memory would be dropped with a traceback, and the cell
    # would wait for it for ever. It does notice a dead worker.
    Queue._on_queue_feeder_error = staticmethod(_end_after_error)  # type: ignore[attr-defined]


def _end_after_error(error: Exception, batch: object) -> None:
    print(f"loader worker: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _end_with_parent() -> None:
    """End this worker as soon as its parent ends.

    A worker shares the lease of the cell it is forked from, so it must not outlive a killed cell;
    torch looks at the parent only every 5 s.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Cutter(TorchDataset[Tensor]):
    """The pixels of batch i as item i; a worker process runs this."""

    def __init__(
        self,
        images: PackedImages,
        crops: Crops,
        bounds: list[tuple[int, int]],
        size: int,
        operations: ImageOperations | None = None,
    ) -> None:
        self.images, self.crops, self.bounds, self.size = images, crops, bounds, size
        self.operations = operations

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, i: int) -> Tensor:
        window = slice(*self.bounds[i])
        order, boxes, flips = (
            a[window].tolist() for a in (self.crops.order, self.crops.boxes, self.crops.flips)
        )
        batch = np.empty((len(order), self.size, self.size, 3), np.uint8)
        for out, image, (top, left, height, width), flip in zip(
            batch, order, boxes, flips, strict=True
        ):
            # Copied: torchvision resizes a crop that is contiguous twice as fast.
            crop = np.array(self.images[image][top : top + height, left : left + width])
            planes = torch.from_numpy(crop).permute(2, 0, 1)
            planes = functional.resize(planes, [self.size, self.size], antialias=True)
            pixels = planes.permute(1, 2, 0).numpy()
            out[:] = pixels[:, ::-1] if flip else pixels
        pixels_of = torch.from_numpy(batch)
        if self.operations is not None and self.crops.seeds is not None:
            change(pixels_of, self.operations, self.crops.seeds[window].tolist())
        return pixels_of


class ResidentImages(LoaderImages):
    """Crops that are cut and resized on the device, which holds the images."""

    is_resident = True

    def __init__(self, dataset: Dataset, part: ImageSet, device: torch.device) -> None:
        super().__init__(dataset, part, device, n_workers=0)
        stops = np.cumsum(self.images.shapes.prod(1))
        self.starts = np.concatenate([[0], stops[:-1]])
        self.stored = torch.empty(int(stops[-1]), 3, dtype=torch.uint8, device=device)
        for i, (start, stop) in enumerate(zip(self.starts, stops, strict=True)):
            self.stored[start:stop] = torch.from_numpy(np.array(self.images[i]).reshape(-1, 3))

    def _pixels(self, crops: Crops, bounds: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, (B, size, size, 3) float32."""
        top, left, height, width = crops.boxes.T
        row_length = self.images.shapes[crops.order, 1]
        first = self.starts[crops.order] + top * row_length + left
        # Of each crop: its first pixel in the store, the length of an image row, the last row and
        # column of the crop.
        numbers = np.stack([first, row_length, height - 1, width - 1])[..., None, None]
        numbers_on = to_device(torch.from_numpy(numbers), self.device)
        sizes = numbers_on[2:, :, 0, 0].T + 1
        flips = to_device(torch.from_numpy(crops.flips), self.device)
        longest = crops.boxes[:, 2:].max(initial=0)
        steps = torch.arange(longest, device=self.device)
        for group in _groups(bounds):
            begun, window = group[0][0], slice(group[0][0], group[-1][1])
            n_rows, n_columns = crops.boxes[window, 2:].max(0).tolist()
            begin, length, bottom, right = numbers_on[:, window]
            # Beyond a crop its last row and column are repeated: they get no weight.
            rows = steps[:n_rows, None].minimum(bottom) * length + begin
            canvas = self.stored[rows + steps[:n_columns].minimum(right)]
            pixels = resize_crops(canvas, sizes[window], flips[window], self.augmentation.size)
            del canvas
            for start, stop in group:
                yield pixels[start - begun : stop - begun]


def _groups(bounds: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield the batches that are cut together: consecutive ones of at most CUT_AT_ONCE images."""
    group: list[tuple[int, int]] = []
    for start, stop in bounds:
        if group and stop - group[0][0] > CUT_AT_ONCE:
            yield group
            group = []
        group.append((start, stop))
    if group:
        yield group
