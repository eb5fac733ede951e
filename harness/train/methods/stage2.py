"""Stage 2 of ReFilled: cross-entropy, with the teacher's class centres as soft targets."""

import torch
from torch import Tensor

from harness.data.batches import Batch, epoch_generator
from harness.distill.centers import class_centers
from harness.distill.relations import upcast_to_float32
from harness.distill.stage2 import local_teaching_loss, teaching_loss
from harness.methods.refilled import Stage2Settings
from harness.networks.base import Network
from harness.train.evaluate import autocast
from harness.train.methods.base import Context, Losses, ScheduledClassifier


class CenterTeaching(ScheduledClassifier):
    """The cross-entropy, and a soft target from the teacher's class centres."""

    settings: Stage2Settings

    def __init__(self, context: Context, settings: Stage2Settings) -> None:
        super().__init__(context, settings)
        self.centers = None
        if settings.centers == "global":
            augmented = context.config.protocol.center_images == "augmented"
            self.centers = global_centers(context, augmented)

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Return the cross-entropy and the teaching loss, and the logits."""
        teacher = self.context.teacher_output(batch)
        logits = model(batch.x)
        s = self.settings
        if self.centers is None:
            teaching = local_teaching_loss(
                logits, teacher.embedding, batch.y, tau2=s.tau2, epoch=epoch + 1
            )
        else:
            teaching = teaching_loss(
                logits,
                teacher.embedding,
                batch.y,
                self.centers,
                tau2=s.tau2,
                lambd=s.lambd,
                tau_on=s.tau_on,
                teacher_logits=teacher.logits if s.weighted else None,
                weighted=s.weighted,
            )
        return {"ce": self.classification_loss(logits, batch), "teaching": teaching}, logits


@torch.no_grad()
def global_centers(context: Context, augmented: bool) -> Tensor:
    """Return the class centres (C, Dt) of the training set.

    They come from an un-augmented pass or, as in the 2021 release (docs/deviations.md, quirk 4),
    from an augmented one.
    """
    c = context
    if not augmented:
        return class_centers(c.teacher_embedding(), c.train.labels, c.n_classes)
    batches = c.train.augmented(512, epoch_generator(c.config.seed, 0))
    with autocast(c.train.device, c.precision):
        parts = [(upcast_to_float32(c.teacher.embed(b.x)), b.y) for b in batches]
    embedding, labels = (torch.cat(p) for p in zip(*parts, strict=True))
    return class_centers(embedding, labels, c.n_classes)
