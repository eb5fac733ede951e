"""Stage 1 of ReFilled: relation matching on embeddings."""

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.common.metrics import ncm_metric
from harness.data.batches import Batch, Epoch, to_device
from harness.distill.relations import padded_pairs, same_class_pairs
from harness.distill.stage1 import stage1_loss
from harness.methods.refilled import Stage1Settings
from harness.networks.base import Network
from harness.train.evaluate import ncm_accuracies
from harness.train.methods.base import Context, Losses, Training
from harness.train.schedule import warm_cosine_lr


class RelationMatching(Training):
    """Relation matching between embeddings; `fc` takes no part and gets no gradient."""

    settings: Stage1Settings

    def __init__(self, context: Context, settings: Stage1Settings) -> None:
        super().__init__(context, settings)
        self.metric = ncm_metric(context.config.protocol.ncm_centers)

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Return the relation loss of a batch; there are no logits."""
        teacher = self.context.teacher_output(batch)
        pairs = batch.prepared.get("pairs")
        s = self.settings
        loss, _ = stage1_loss(
            model.embed(batch.x),
            teacher.embedding,
            batch.y,
            relation=s.relation,
            tau1=s.tau1,
            margin=s.margin,
            negatives=s.negatives,
            weight=s.weight,
            pairs=None if pairs is None else (pairs[0], pairs[1]),
            exists=batch.prepared.get("exists"),
        )
        return {"relation": loss}, None

    def prepare_batches(self, batches: Epoch, epoch: int) -> Iterator[Batch]:
        """Yield the batches with their pairs.

        A GPU gets those of the whole epoch at once, from the CPU's copy of the labels, as finding
        them there would wait for it; each batch as many, as a CUDA graph has one shape.
        """
        device, ready = self.context.train.device, super().prepare_batches(batches, epoch)
        if device.type == "cpu":
            for batch in ready:
                yield batch.with_prepared(pairs=torch.stack(same_class_pairs(batch.y)))
            return
        pairs, exists = (to_device(t, device) for t in padded_pairs(batches.labels))
        for i, batch in enumerate(ready):
            yield batch.with_prepared(pairs=pairs[i], exists=exists[i])

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch, from 0."""
        s = self.settings
        return warm_cosine_lr(epoch, s.epochs, s.lr, s.final_lr_ratio, s.warmup_epochs)

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        """Return both NCM accuracies; None outside the rhythm."""
        if not self.is_measured(epoch + 1):
            return None
        c = self.context
        measured, predicted = ncm_accuracies(model, c.train, c.evaluated, c.n_classes, c.precision)
        self.predicted = predicted[self.metric]
        return measured

    def is_measured(self, epoch: int) -> bool:
        """Return whether accuracy is measured after an epoch (from 1).

        That is in its rhythm and after the last epoch, unless the protocol goes by the rhythm alone
        and there are enough epochs for it.
        """
        rhythm, last = self.settings.select_every, self.settings.epochs
        only_rhythm = self.context.config.protocol.last_look == "rhythm" and last >= rhythm
        return epoch % rhythm == 0 or (epoch == last and not only_rhythm)
