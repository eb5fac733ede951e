"""What each kind of cell minimises and measures. One class a kind; the loop is the same for all.

To add a distillation method: write its loss in harness/distill/ with its paper in the docstring,
a class here with the same four members, and a line in METHODS (and in harness/plan.py, what its
cells depend on).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.batches import Batch, Images, epoch_generator
from harness.distill.centers import class_centers
from harness.distill.kd import kd_loss
from harness.distill.relations import at_least_float32, same_class_pairs
from harness.distill.stage1 import stage1_loss
from harness.distill.stage2 import local_teaching_loss, teaching_loss
from harness.errors import UserError
from harness.networks.base import Network
from harness.train.evaluate import accuracy, autocast, embed_and_classify, ncm_accuracies
from harness.train.schedule import cosine_lr, multistep_lr

Losses = dict[str, Tensor]


class Context:
    """What a method may use: the cell's spec, the images on the device, the frozen teacher."""

    def __init__(
        self,
        spec: dict[str, Any],
        images: dict[str, Images],
        n_classes: int,
        teacher: Network | None,
    ) -> None:
        self.spec = spec
        self.images = images
        self.train = images["train"]
        self.evaluated = {k: v for k, v in images.items() if k != "train"}
        self.n_classes = n_classes
        self.precision: str = spec["optimizer"]["precision"]
        self._teacher = teacher.eval().requires_grad_(False) if teacher is not None else None

    @property
    def teacher(self) -> Network:
        if self._teacher is None:
            raise RuntimeError("this cell has no teacher")
        return self._teacher

    @torch.no_grad()
    def teach(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's embeddings and logits of a batch."""
        return self.teacher.embed_and_classify(x)


@contextmanager
def refused_settings() -> Iterator[None]:
    """Around a loss alone: a setting that it refuses (ValueError) is the user's, in cell.json.

    A network's own ValueErrors are not, and keep their traceback.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


class Method(Protocol):
    metric: str  # the accuracy that selects the epoch, as "{set}/{metric}"

    def __init__(self, context: Context) -> None: ...
    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Named terms whose sum is minimised, and the logits if the method makes any."""
        ...

    def lr(self, epoch: int) -> float: ...
    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        """ "{set}/{metric}" -> accuracy after this epoch; None where the method does not look."""
        ...


class Supervised:
    """Cross-entropy: teachers and plain students."""

    metric = "accuracy"
    schedule = "training"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = context.spec[self.schedule]

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        logits = model(batch.x)
        return {"ce": F.cross_entropy(at_least_float32(logits), batch.y)}, logits

    def lr(self, epoch: int) -> float:
        s = self.settings
        return multistep_lr(epoch, s["lr"], s["milestones"], s["gamma"])

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        return {
            f"{name}/accuracy": accuracy(model, images, self.context.precision)
            for name, images in self.context.evaluated.items()
        }


class Kd(Supervised):
    """Classic distillation on logits."""

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        _, teacher_logits = self.context.teach(batch.x)
        logits = model(batch.x)
        settings = self.context.spec["kd"]
        return kd_loss(logits, teacher_logits, batch.y, **settings), logits


class Stage1:
    """Relation matching on embeddings; `fc` takes no part and gets no gradient."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = context.spec["stage1"]
        form = {"train": "train", "evaluated": "eval"}[context.spec["ncm_centers"]]
        self.metric = f"ncm_{form}_centers"

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        teacher_embedding, _ = self.context.teach(batch.x)
        # From the CPU's copy of the labels: to find them on the device would wait for it.
        anchor, positive = (
            i.to(batch.y.device, non_blocking=True) for i in same_class_pairs(batch.y_cpu)
        )
        embedding = model.embed(batch.x)
        s = self.settings
        with refused_settings():
            loss, _ = stage1_loss(
                embedding,
                teacher_embedding,
                batch.y,
                relation=s["relation"],
                tau1=s["tau1"],
                margin=s["margin"],
                negatives=s["negatives"],
                weight=s["weight"],
                pairs=(anchor, positive),
            )
        return {"relation": loss}, None

    def lr(self, epoch: int) -> float:
        s = self.settings
        return cosine_lr(epoch, s["epochs"], s["lr"], s["final_lr_ratio"])

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        done = epoch + 1
        if done % self.settings["select_every"] and done != self.settings["epochs"]:
            return None
        c = self.context
        return ncm_accuracies(model, c.train, c.evaluated, c.n_classes, c.precision)


class Stage2(Supervised):
    """Cross-entropy plus the teaching term: the teacher's class centres as soft targets."""

    schedule = "stage2"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.centers = None
        if self.settings["centers"] == "global":
            self.centers = self._global_centers(context.spec["center_images"])

    @torch.no_grad()
    def _global_centers(self, images: str) -> Tensor:
        """Centres of the training set: one un-augmented pass (honest), or one augmented pass as in
        the 2021 release (docs/protocol.md, quirk 4)."""
        c = self.context
        if images == "plain":
            embedding, _ = embed_and_classify(c.teacher, c.train, c.precision)
            return class_centers(embedding, c.train.labels, c.n_classes)
        batches = c.train.augmented(512, epoch_generator(c.spec["seed"], 0))
        with autocast(c.train.device, c.precision):
            parts = [(at_least_float32(c.teacher.embed(b.x)), b.y) for b in batches]
        embedding, labels = (torch.cat(p) for p in zip(*parts, strict=True))
        return class_centers(embedding, labels, c.n_classes)

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        embedding, teacher_logits = self.context.teach(batch.x)
        logits = model(batch.x)
        s = self.settings
        if self.centers is None:
            teaching = local_teaching_loss(
                logits, embedding, batch.y, tau2=s["tau2"], epoch=epoch + 1
            )
        else:
            with refused_settings():
                teaching = teaching_loss(
                    logits,
                    embedding,
                    batch.y,
                    self.centers,
                    tau2=s["tau2"],
                    lambd=s["lambd"],
                    tau_on=s["tau_on"],
                    weighted=s["weighted"],
                    teacher_logits=teacher_logits if s["weighted"] else None,
                )
        return {
            "ce": F.cross_entropy(at_least_float32(logits), batch.y),
            "teaching": teaching,
        }, logits


METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "kd": Kd,
    "stage1": Stage1,
    "stage2": Stage2,
}
