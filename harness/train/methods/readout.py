"""A network with another last layer, found at once: what its embedding is worth by itself."""

import torch
from torch import Tensor

from harness.data.batches import Batch
from harness.distill.centers import class_centers
from harness.networks.base import Network
from harness.train.evaluate import embed_and_classify
from harness.train.methods.base import Classifier, Losses


class Readout(Classifier):
    """The network stays as it is; its last layer is fitted to one pass over the un-augmented
    training images."""

    is_probabilistic = False

    def head(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the last layer.

        Args:
            embedding: (N, D), raw. labels: (N,), of classes that have images.
        """
        raise NotImplementedError

    @torch.no_grad()
    def fit(self, model: Network, epoch: int) -> dict[str, float]:
        train = self.context.train
        embedding, _ = embed_and_classify(model, train, self.context.precision)
        set_head(model, *self.head(embedding, train.labels), train.labels)
        logits = model.fc(embedding.to(model.fc.weight.dtype))
        return {"train/accuracy": (logits.argmax(1) == train.labels).double().mean().item()}

    def lr(self, epoch: int) -> float:
        return 0.0

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        raise AssertionError("a readout takes no steps")


class NearestMeans(Readout):
    """argmax <phi, c_j> is a linear classifier whose weights are the class centres."""

    def head(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        centers = class_centers(embedding, labels, self.context.n_classes)
        return centers, centers.new_zeros(len(centers))


@torch.no_grad()
def set_head(model: Network, weight: Tensor, bias: Tensor, labels: Tensor) -> None:
    """Give the model this last layer, (C, D) and (C,). A class without images among the training
    ones (labels: (N,)), as an incremental task may have, cannot be meant."""
    absent = torch.bincount(labels, minlength=len(bias)) == 0
    model.fc.weight.copy_(weight)
    model.fc.bias.copy_(bias.masked_fill(absent, torch.finfo(model.fc.bias.dtype).min))
