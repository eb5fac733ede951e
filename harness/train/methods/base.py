"""What every way to train a cell has in common; the loop (harness.train.loop) is the same for all.

To add one: a subclass of `Training` in a module of its own, named by a stage of harness.methods; a
`Term` (harness.train.methods.distillation) is enough for what stands beside the cross-entropy.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.cell import CellConfig
from harness.common.metrics import ACCURACY, VALIDATION_LOSS, metric_name
from harness.data.batches import Batch, Images
from harness.distill.relations import upcast_to_float32
from harness.methods import stage_of
from harness.methods.base import Schedule, Section, StepSchedule
from harness.networks.base import Network
from harness.train.evaluate import accuracies, embed_and_classify, logits_of
from harness.train.schedule import multistep_lr
from harness.train.teacher_cache import TeacherCache

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class NetworkOutput:
    """What a network says of a batch: embedding (B, D), logits (B, C), and if they were asked for
    the maps (B, channels, H, W) after each group of blocks."""

    embedding: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()

    @staticmethod
    def of(network: Network, x: Tensor, maps: bool = False) -> NetworkOutput:
        """x: (B, 3, H, W)."""
        if maps:
            embedding, found = network.embed_with_maps(x)
            return NetworkOutput(embedding, network.fc(embedding), found)
        return NetworkOutput(*network.embed_and_classify(x))


class Context:
    """What a training may use: the cell's config, the images on the device, the frozen teacher."""

    def __init__(
        self,
        config: CellConfig,
        images: dict[str, Images],
        n_classes: int,
        student: Network,
        teacher: Network | None,
        kept: TeacherCache | None = None,
    ) -> None:
        """
        Args:
            student: on the images' device; a training's own module may fit its shapes.
            kept: the teacher's answers, where they are kept.
        """
        self.config = config
        self.student = student
        self.images = images
        self.train = images["train"]
        self.evaluated = {k: v for k, v in images.items() if k != "train"}
        self.n_classes = n_classes
        self.groups = config.data.view.groups
        self.precision = config.optimizer.precision
        self._teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._kept = kept
        self._answered: tuple[Batch, Tensor] | None = None

    @property
    def teacher(self) -> Network:
        """For what is no batch of the loop (centres of the whole set); else `teach`."""
        if self._teacher is None:
            raise RuntimeError("this cell has no teacher")
        return self._teacher

    @torch.no_grad()
    def teach(self, batch: Batch, maps: bool = False) -> NetworkOutput:
        """The teacher's answer to a batch of the loop: the one door to it."""
        if self._answered is not None and self._answered[0] is batch and not maps:
            embedding = self._answered[1]
            return NetworkOutput(embedding, self.teacher.fc(embedding))
        return NetworkOutput.of(self.teacher, batch.x, maps)

    def asking(self, batches: Iterable[Batch], epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0), for who will `teach` each without maps: where answers
        are kept, it is at hand then."""
        if self._kept is None:
            yield from batches
            return
        for batch, embedding in self._kept.to(batches, f"epoch-{epoch + 1}", len(self.train)):
            self._answered = batch, embedding
            yield batch
        self._answered = None

    @torch.no_grad()
    def teacher_embedding(self) -> Tensor:
        """(N, Dt) of the un-augmented training images, in float32 at least."""
        if self._kept is None:
            return embed_and_classify(self.teacher, self.train, self.precision)[0]
        answered = self._kept.to(self.train.plain(), "unaugmented", len(self.train))
        return torch.cat([embedding for _, embedding in answered])


class Training:
    """What one stage minimises and measures.

    metric: the accuracy that selects the epoch, as "{part}/{metric}", unless the protocol selects
        by loss.
    predicted: part -> (N,) the classes that the model of the last evaluation has predicted.
    selected: the same of the selected epoch, if that was in this process.
    module: what the training owns beside the student. Its parameters (regressors, projections) are
        optimised with the student's, and with its buffers (a memory bank) they are in every
        checkpoint; model.pt has none of it. Made in the constructor, on the CPU, from the stream
        that the cell's seed has set; the loop moves it to the device.
    """

    metric = ACCURACY
    settings: Section

    def __init__(self, context: Context, settings: Section) -> None:
        """
        Args:
            settings: the first of its stage's sections, which holds the schedule if there is one.
        """
        self.context = context
        self.settings = settings
        self.module: nn.Module = nn.Module()
        self.predicted: dict[str, Tensor] = {}
        self.selected: dict[str, Tensor] = {}

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Named terms whose sum is minimised, and the logits if any are made. epoch: from 0."""
        raise NotImplementedError

    def fit(self, model: Network, epoch: int) -> dict[str, float] | None:
        """Of a training that takes no steps: give the model its weights, and what to note of it.
        None, as here: it takes steps."""
        return None

    def lr(self, epoch: int) -> float:
        """Of an epoch, from 0."""
        raise NotImplementedError

    def prepared(self, batches: Iterable[Batch], epoch: int) -> Iterable[Batch]:
        """The batches of an epoch (from 0), as `losses` will get them: with the teacher's answers
        at hand, unless it never asks for one, or for maps."""
        return self.context.asking(batches, epoch)

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        """ "{part}/{metric}" -> accuracy after this epoch; None where it is not measured."""
        raise NotImplementedError


class Classifier(Training):
    """A training whose student classifies. It measures accuracy in the protocol's rhythm and after
    the last epoch, also that of the old and the new classes of an incremental task, and the loss on
    the validation images.

    Attributes:
        is_probabilistic: whether the softmax of its logits means something.
        epochs: how many it trains for.
    """

    is_probabilistic = True

    @property
    def epochs(self) -> int:
        return self.settings.epochs if isinstance(self.settings, Schedule) else 1

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        c = self.context
        if (epoch + 1) % c.config.protocol.evaluate_every and epoch + 1 != self.epochs:
            return None
        logits = {p: logits_of(model, images, c.precision) for p, images in c.evaluated.items()}
        self.predicted = {part: of_part.argmax(1) for part, of_part in logits.items()}
        measured = {
            metric_name(part, name): value
            for part, images in c.evaluated.items()
            for name, value in accuracies(self.predicted[part], images.labels, c.groups).items()
        }
        if self.is_probabilistic and "validation" in logits:
            loss = cross_entropy(logits["validation"], c.evaluated["validation"].labels).item()
            if math.isfinite(loss):
                measured[VALIDATION_LOSS] = loss
        return measured


class ScheduledClassifier(Classifier):
    """A classifier that is trained by gradient steps, at a rate that falls at milestones."""

    settings: StepSchedule

    def lr(self, epoch: int) -> float:
        s = self.settings
        return multistep_lr(epoch, s.lr, s.milestones, s.gamma)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch, in float32 at least. logits: (B, C); labels: (B,)."""
    return F.cross_entropy(upcast_to_float32(logits), labels)


def training_of(kind: str, context: Context) -> Training:
    """Return what trains a cell of this kind."""
    stage = stage_of(kind)
    trainer: type[Training] = pkgutil.resolve_name(stage.trainer)
    terms = {"terms": stage.terms} if stage.terms else {}
    sections = [context.config.sections[name] for name in stage.all_sections]
    return trainer(context, sections[0] if sections else Section(), **terms)
