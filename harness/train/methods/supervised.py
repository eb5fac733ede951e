"""Supervised training: teachers and plain students."""

from torch import Tensor

from harness.data.batches import Batch
from harness.networks.base import Network
from harness.train.methods.base import Losses, ScheduledClassifier


class Supervised(ScheduledClassifier):
    """The cross-entropy alone."""

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Return the cross-entropy and the logits."""
        logits = model(batch.x)
        return {"ce": self.classification_loss(logits, batch)}, logits
