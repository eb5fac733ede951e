"""The base of all trainings; the loop (harness.train.loop) is the same for all.

To add one: write a subclass of `Training` in a module of its own, named by a stage of
harness.methods. A `Term` (harness.train.methods.distillation) is enough for a method that adds to
the cross-entropy.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.cell import CellConfig
from harness.common.metrics import ACCURACY, VALIDATION_LOSS, metric_name
from harness.data.batches import MIXING, TARGET, Batch, Epoch, Images, epoch_generator
from harness.distill.relations import upcast_to_float32
from harness.methods import stage_of
from harness.methods.base import Section
from harness.methods.schedules import Schedule, StepSchedule, TrainingSettings
from harness.networks.base import Network
from harness.train.evaluate import accuracies, embed_and_classify, logits_of
from harness.train.schedule import scheduled_lr
from harness.train.teacher_cache import TeacherCache

Losses = dict[str, Tensor]
TEACHER_EMBEDDING = "teacher_embedding"  # in what is prepared for a batch


@dataclass(frozen=True)
class NetworkOutput:
    """The output of a network for a batch.

    Attributes:
        embedding: (B, D).
        logits: (B, C).
        maps: (B, channels, H, W) after each group of blocks; empty if they were not requested.
    """

    embedding: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()

    @staticmethod
    def compute(network: Network, x: Tensor, with_maps: bool = False) -> NetworkOutput:
        """Return the output of a network for x (B, 3, H, W)."""
        if with_maps:
            embedding, maps = network.embed_with_maps(x)
            return NetworkOutput(embedding, network.fc(embedding), maps)
        return NetworkOutput(*network.embed_and_classify(x))


class Context:
    """Everything a training may use: the config, the images on the device, the frozen teacher.

    Args:
        student: On the images' device; a training's own module may be fitted to its shapes.
        teacher_cache: The cached outputs of the teacher; None if caching is off.
    """

    def __init__(
        self,
        config: CellConfig,
        images: dict[str, Images],
        n_classes: int,
        student: Network,
        teacher: Network | None,
        teacher_cache: TeacherCache | None = None,
    ) -> None:
        self.config = config
        self.student = student
        self.images = images
        self.train = images["train"]
        self.evaluated = {k: v for k, v in images.items() if k != "train"}
        self.n_classes = n_classes
        self.groups = config.data.view.groups
        self.precision = config.optimizer.precision
        self._teacher = None if teacher is None else freeze(teacher, self.precision)
        self._teacher_cache = teacher_cache

    @property
    def teacher(self) -> Network:
        """The teacher itself, for passes over the whole set; for batches use `teacher_output`."""
        if self._teacher is None:
            raise RuntimeError("this cell has no teacher")
        return self._teacher

    @torch.no_grad()
    def teacher_output(self, batch: Batch, with_maps: bool = False) -> NetworkOutput:
        """Return the teacher's output for a batch of the loop, from the cache if it is there."""
        embedding = batch.prepared.get(TEACHER_EMBEDDING)
        if embedding is not None and not with_maps:
            return NetworkOutput(embedding, self.teacher.fc(embedding))
        return NetworkOutput.compute(self.teacher, batch.x, with_maps)

    def with_teacher_outputs(self, batches: Epoch, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0), whose teacher outputs without maps are needed.

        With a cache, the teacher's embedding is at hand for `teacher_output`.
        """
        if self._teacher_cache is None:
            yield from batches
            return
        name, n_images = f"epoch-{epoch + 1}", len(self.train)
        for batch, embedding in self._teacher_cache.outputs_for(batches, name, n_images):
            yield batch.with_prepared(**{TEACHER_EMBEDDING: embedding})

    @torch.no_grad()
    def teacher_embedding(self) -> Tensor:
        """Return the embedding (N, Dt) of the un-augmented training images, at least float32."""
        if self._teacher_cache is None:
            return embed_and_classify(self.teacher, self.train, self.precision)[0]
        batches, n_images = self.train.plain(), len(self.train)
        outputs = self._teacher_cache.outputs_for(batches, "unaugmented", n_images)
        return torch.cat([embedding for _, embedding in outputs])


class Training:
    """The losses that one stage minimises, and the accuracies that it measures.

    Args:
        settings: The first section of the stage, which holds the schedule if there is one.

    Attributes:
        metric: The accuracy that selects the epoch, unless the protocol selects by loss.
        takes_steps: Whether it takes gradient steps, and does not `fit` the model at once.
        predicted: Part -> (N,) the classes that the model predicted in the last evaluation.
        selected: The same of the selected epoch, if this process trained it.
        module: What the training owns beside the student. Its parameters (regressors, projections)
            are optimised with the student's; they and its buffers (a memory bank) are in every
            checkpoint, but not in model.pt. Made in the constructor, on the CPU, from the stream
            that the cell's seed has set; the loop moves it to the device.
    """

    metric = ACCURACY
    takes_steps = True
    settings: Section

    def __init__(self, context: Context, settings: Section) -> None:
        self.context = context
        self.settings = settings
        self.module: nn.Module = nn.Module()
        self.predicted: dict[str, Tensor] = {}
        self.selected: dict[str, Tensor] = {}

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Return the named terms whose sum is minimised, and the logits if there are any.

        Epochs are counted from 0.
        """
        raise NotImplementedError

    def fit(self, model: Network, epoch: int) -> dict[str, float] | None:
        """Give the model its weights at once, and return what to note about it.

        Returns:
            None, as here, for a training that takes gradient steps instead.
        """
        return None

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch, from 0."""
        raise NotImplementedError

    def mix(self, batches: Epoch, epoch: int) -> Epoch:
        """Return the batches of an epoch (from 0) with their images mixed; as here, with none.

        This is before `prepare_batches`, so a teacher is asked about the images as they are then.
        """
        return batches

    def prepare_batches(self, batches: Epoch, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0) as `losses` will get them.

        The teacher's outputs are at hand, unless the training never needs them, or needs maps.
        """
        return self.context.with_teacher_outputs(batches, epoch)

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        """Return "{part}/{metric}" -> accuracy after an epoch (from 0); None to not measure it."""
        raise NotImplementedError


class Classifier(Training):
    """A training whose student classifies.

    It measures accuracy in the protocol's rhythm and after the last epoch, also for the old and the
    new classes of an incremental task, and the loss on the validation images.

    Attributes:
        is_probabilistic: Whether the softmax of the logits means something.
    """

    is_probabilistic = True

    @property
    def epochs(self) -> int:
        """The number of epochs of the training."""
        return self.settings.epochs if isinstance(self.settings, Schedule) else 1

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        """Return the accuracies and the validation loss; None outside the rhythm."""
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
    """A classifier that takes gradient steps, at a rate that falls as its schedule says."""

    settings: StepSchedule

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch, from 0."""
        return scheduled_lr(epoch, self.settings)

    def classification_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the logits (B, C) with the batch's labels, mixed or not."""
        target = batch.prepared.get(TARGET, batch.y)
        return cross_entropy(logits, target, self.settings.label_smoothing)

    def mix(self, batches: Epoch, epoch: int) -> Epoch:
        """Return the batches of an epoch (from 0) with mixed images, if the settings say so."""
        s = self.settings
        if not isinstance(s, TrainingSettings) or not s.mixing:
            return batches
        # Imported here: torchvision takes seconds, and most trainings mix nothing.
        from harness.data.mixing import mix_batches

        c = self.context
        generator = epoch_generator(c.config.seed, epoch, stream=MIXING)
        return mix_batches(batches, s.mixup_alpha, s.cutmix_alpha, c.n_classes, generator)


def freeze(teacher: Network, precision: str) -> Network:
    """Return the teacher in eval mode and without gradients, its weights in the precision.

    Autocast would cast the weights of its convolutions and linear layers anew for each batch.
    """
    teacher.eval().requires_grad_(False)
    if precision == "bfloat16":
        for module in teacher.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)
    return teacher


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean over the batch, at least float32, of logits (B, C).

    Labels are (B,), or the share of each class, (B, C).

    `smoothing` is the share of a label that all classes have alike.
    """
    return F.cross_entropy(upcast_to_float32(logits), labels, label_smoothing=smoothing)


def make_training(kind: str, context: Context) -> Training:
    """Return the training of cells of this kind."""
    stage = stage_of(kind)
    trainer: type[Training] = pkgutil.resolve_name(stage.trainer)
    terms = {"terms": stage.terms} if stage.terms else {}
    sections = [context.config.sections[name] for name in stage.all_sections]
    return trainer(context, sections[0] if sections else Section(), **terms)
