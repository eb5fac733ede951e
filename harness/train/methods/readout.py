"""Readouts: a last layer that is fitted at once measures what an embedding is worth by itself."""

import torch
from torch import Tensor

from harness.data.batches import Batch
from harness.distill.centers import class_centers
from harness.networks.base import Network
from harness.train.evaluate import embed_and_classify
from harness.train.methods.base import Classifier, Losses


class Readout(Classifier):
    """A frozen network whose last layer is fitted to the un-augmented training images."""

    is_probabilistic = False
    takes_steps = False

    def head(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (C, D) and bias (C,) of the last layer, for raw embeddings (N, D)."""
        raise NotImplementedError

    @torch.no_grad()
    def fit(self, model: Network, epoch: int) -> dict[str, float]:
        """Fit the last layer, and return the accuracy on the training images."""
        train = self.context.train
        embedding, _ = embed_and_classify(model, train, self.context.precision)
        set_head(model, *self.head(embedding, train.labels), train.labels)
        logits = model.fc(embedding.to(model.fc.weight.dtype))
        return {"train/accuracy": (logits.argmax(1) == train.labels).double().mean().item()}

    def lr(self, epoch: int) -> float:
        """Return 0: there are no gradient steps."""
        return 0.0

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Raise an error: there are no gradient steps."""
        raise AssertionError("a readout takes no steps")


class NearestMeans(Readout):
    """Nearest class means: argmax <phi, c_j>, a linear layer whose weights are the centres."""

    def head(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class centres (C, D) and zeros (C,)."""
        centers = class_centers(embedding, labels, self.context.n_classes)
        return centers, centers.new_zeros(len(centers))


@torch.no_grad()
def set_head(model: Network, weight: Tensor, bias: Tensor, labels: Tensor) -> None:
    """Give the model this last layer, (C, D) and (C,).

    A class without training images (labels: (N,)), which an incremental task may have, is never
    predicted.
    """
    absent = torch.bincount(labels, minlength=len(bias)) == 0
    model.fc.weight.copy_(weight)
    model.fc.bias.copy_(bias.masked_fill(absent, torch.finfo(model.fc.bias.dtype).min))
