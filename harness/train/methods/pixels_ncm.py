"""Nearest class means in pixel space."""

import torch
from torch.nn import functional as F

from harness.distill.centers import class_sums
from harness.networks.base import Network
from harness.train.evaluate import accuracy
from harness.train.methods.readout import Readout, set_head


class PixelsNcm(Readout):
    """Nearest class means of the pixels, whose embedding is the image itself."""

    @torch.no_grad()
    def fit(self, model: Network, epoch: int) -> dict[str, float]:
        """Fit the centres batch by batch, as all images may not fit into memory."""
        c = self.context
        sums = torch.zeros_like(model.fc.weight)
        for batch in c.train.plain():
            sums += class_sums(model.embed(batch.x), batch.y, c.n_classes)
        set_head(model, F.normalize(sums), sums.new_zeros(len(sums)), c.train.labels)
        return {"train/accuracy": accuracy(model, c.train, c.precision)}
