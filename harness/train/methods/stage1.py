"""Stage 1 of ReFilled: relation matching on embeddings."""

from torch import Tensor

from harness.common.metrics import ncm_metric
from harness.data.batches import Batch
from harness.distill.relations import same_class_pairs
from harness.distill.stage1 import stage1_loss
from harness.methods.refilled import Stage1Settings
from harness.networks.base import Network
from harness.train.evaluate import ncm_accuracies
from harness.train.methods.base import Context, Losses, Training
from harness.train.schedule import cosine_lr


class RelationMatching(Training):
    """`fc` takes no part and gets no gradient."""

    settings: Stage1Settings

    def __init__(self, context: Context, settings: Stage1Settings) -> None:
        super().__init__(context, settings)
        self.metric = ncm_metric(context.config.protocol.ncm_centers)

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        answer = self.context.teach(batch)
        # From the CPU's copy of the labels: to find them on the device would wait for it.
        anchor, positive = (
            i.to(batch.y.device, non_blocking=True) for i in same_class_pairs(batch.y_cpu)
        )
        s = self.settings
        loss, _ = stage1_loss(
            model.embed(batch.x),
            answer.embedding,
            batch.y,
            relation=s.relation,
            tau1=s.tau1,
            margin=s.margin,
            negatives=s.negatives,
            weight=s.weight,
            pairs=(anchor, positive),
        )
        return {"relation": loss}, None

    def lr(self, epoch: int) -> float:
        s = self.settings
        return cosine_lr(epoch, s.epochs, s.lr, s.final_lr_ratio)

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        if not self.is_looked_at(epoch + 1):
            return None
        c = self.context
        return ncm_accuracies(model, c.train, c.evaluated, c.n_classes, c.precision)

    def is_looked_at(self, epoch: int) -> bool:
        """Whether it is measured after this epoch (from 1): in its rhythm, and after the last one,
        unless the protocol goes by the rhythm alone, which then must come at all."""
        rhythm, last = self.settings.select_every, self.settings.epochs
        by_rhythm_alone = self.context.config.protocol.last_look == "rhythm" and last >= rhythm
        return epoch % rhythm == 0 or (epoch == last and not by_rhythm_alone)
