"""Batches of small images of one size that go through random operations, so a CPU makes them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from harness.data.batches import Batch, Epoch, batch_bounds, to_device
from harness.data.dataset import Dataset, ImageSet
from harness.data.loader import load_batches
from harness.data.operations import ImageOperations, change, draw_seeds
from harness.data.small import DeviceImages, crop_indices


class ChangedImages(DeviceImages):
    """Images of one size on the device, but for the batches of an epoch, which loaders make."""

    def __init__(
        self,
        dataset: Dataset,
        part: ImageSet,
        device: torch.device,
        n_workers: int,
        operations: ImageOperations,
    ) -> None:
        super().__init__(dataset, part, device)
        self.n_workers, self.operations = n_workers, operations
        self.padded_cpu = self.padded.cpu()

    def augmented(self, batch_size: int, generator: torch.Generator) -> Epoch:
        """Return every image once, shuffled and augmented, in the batches of `batch_bounds`.

        Order, crops and flips are those that DeviceImages draws.
        """
        drawn = self.draw(generator)
        if not self.augmentation.flip:
            drawn = (*drawn[:2], torch.zeros_like(drawn[2]))
        order, seeds = drawn[0], draw_seeds(len(self), generator)
        labels_cpu, order_on = self.labels_cpu[order], to_device(order, self.device)
        labels = self.labels[order_on]
        windows = [slice(*bounds) for bounds in batch_bounds(len(self), batch_size)]
        cutter = _Cutter(self.padded_cpu, self.size, drawn, windows, self.operations, seeds)

        def batches() -> Iterator[Batch]:
            made = load_batches(cutter, len(windows), self.device, self.n_workers)
            for window, pixels in zip(windows, made, strict=True):
                x = self.normalised(pixels)
                yield Batch(x, labels[window], labels_cpu[window], order_on[window])

        return Epoch([labels_cpu[window] for window in windows], batches, is_resident=False)


class _Cutter(TorchDataset[Tensor]):
    """The pixels of batch i, (B, H, W, 3) uint8, as item i; a worker process runs this."""

    def __init__(
        self,
        padded: Tensor,
        size: tuple[int, int],
        drawn: tuple[Tensor, Tensor, Tensor],
        windows: list[slice],
        operations: ImageOperations,
        seeds: Tensor,
    ) -> None:
        self.padded, self.size, self.drawn, self.windows = padded, size, drawn, windows
        self.operations, self.seeds = operations, seeds

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int) -> Tensor:
        window = self.windows[i]
        order, offsets, flips = self.drawn
        rows, columns = crop_indices(offsets[:, window], self.size, flips[window])
        index = order[window, None, None]
        pixels = self.padded[index, rows[:, :, None], columns[:, None, :]]
        change(pixels, self.operations, self.seeds[window].tolist())
        return pixels
