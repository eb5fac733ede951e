"""Classic distillation on logits."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.kd import kd_loss
from harness.networks.base import Network
from harness.train.methods.base import Classifier, Losses


class Kd(Classifier):
    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        answer = self.context.teach(batch)
        logits = model(batch.x)
        return kd_loss(logits, answer.logits, batch.y, **self.context.spec["kd"]), logits
