"""The timed cases: images of noise, networks, and trainings of the harness on them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from harness.cell import CellConfig, CellData
from harness.data import Augmentation, Dataset, ImageSet
from harness.data.batches import Images
from harness.data.placement import on_device
from harness.experiment.optimizer import Optimizer
from harness.methods import REGISTRY, SECTIONS
from harness.networks import build
from harness.networks.base import Network
from harness.networks.wide_resnet import WideResNetOptions
from harness.train.device import set_determinism
from harness.train.evaluate import autocast
from harness.train.graphs import Graphs
from harness.train.loop import train_epoch
from harness.train.methods.base import Context, Training, make_training
from harness.train.optimizer import make_optimizer
from harness.train.teacher_cache import TeacherCache


@dataclass(frozen=True)
class Case:
    """A training case.

    Attributes:
        device: The device.
        batch: Images per batch.
        classes: The number of classes.
        images: The number of training images, 32 x 32.
        teacher: A wide residual network, as "40-2".
        student: Another one.
        dropout: Of both networks.
        lr: The learning rate, by default so small that the weights stay the same, however many
            steps are timed.
    """

    device: torch.device
    batch: int = 128
    classes: int = 100
    images: int = 256
    teacher: str = "40-2"
    student: str = "16-1"
    dropout: float = 0.3
    lr: float = 1e-6

    @property
    def setting(self) -> dict[str, Any]:
        """The case as a record describes it."""
        return {
            "batch": self.batch,
            "classes": self.classes,
            "images": self.images,
            "student": f"wrn-{self.student}",
            "teacher": f"wrn-{self.teacher}",
            "precision": "float32",
        }

    @property
    def config(self) -> CellConfig:
        """The config of a cell with the default settings of every method."""
        depth, width = map(int, self.student.split("-"))
        sections = {
            name: model.model_validate({"lr": self.lr} if "lr" in model.model_fields else {})
            for name, model in SECTIONS.items()
        }
        return CellConfig(
            data=CellData(digest=""),
            network=WideResNetOptions(depth=depth, width=width, dropout=self.dropout),
            optimizer=Optimizer(batch_size=self.batch),
            sections=sections,
        )

    def network(self, options: str) -> Network:
        """Build a network, as "40-2", on the CPU, and return it on the device."""
        depth, width = map(int, options.split("-"))
        sizes = {"depth": depth, "width": width}
        made = build("wide_resnet", self.classes, **sizes, dropout=self.dropout)
        return made.to(self.device).to(memory_format=torch.channels_last)

    def noise(self) -> Images:
        """Return the images, on the device."""
        return images_of(self.images, self.classes, self.device)

    def training(
        self, kind: str, config: CellConfig, images: Images, answers: Path | None = None
    ) -> Prepared:
        """Return a training of this kind of cell, as a cell's process makes it.

        `answers` is the folder for cached teacher outputs; None for no cache.
        """
        student = self.network(self.student)
        teacher = self.network(self.teacher) if takes_teacher(kind) else None
        kept = None
        if answers is not None and teacher is not None:
            embed = partial(embed_in, config.optimizer.precision, teacher)
            kept = TeacherCache(answers, {}, 10**9, embed, teacher.embedding_dim, self.device)
        context = Context(config, {"train": images}, self.classes, student, teacher, kept)
        training = make_training(kind, context)
        training.module.to(self.device)
        parameters = [*student.parameters(), *training.module.parameters()]
        optimizer = self.optimizer(parameters, config.optimizer)
        return Prepared(student, training, optimizer, images, config)

    def optimizer(
        self, parameters: Iterable[Parameter], options: Optimizer | None = None
    ) -> torch.optim.Optimizer:
        """Return the optimizer that the loop uses."""
        made = make_optimizer(parameters, options or Optimizer(), self.device)
        for group in made.param_groups:
            group["lr"] = self.lr
        return made


@dataclass(frozen=True)
class Prepared:
    """A training with its network, optimizer and images."""

    model: Network
    training: Training
    optimizer: torch.optim.Optimizer
    images: Images
    config: CellConfig

    def epoch(self, number: int = 0, graphs: Graphs | None = None) -> dict[str, Any]:
        """Train for an epoch, and return its journal line."""
        return train_epoch(
            *(self.model, self.training, self.optimizer, self.images, self.config),
            *(number, lambda: False, graphs),
        )


@torch.no_grad()
def embed_in(precision: str, teacher: Network, x: Tensor) -> Tensor:
    """Return a teacher's embeddings of images, computed in a precision as a cell does."""
    with autocast(x.device, precision):
        return teacher.embed(x)


def images_of(n: int, classes: int, device: torch.device, size: int = 32) -> Images:
    """Return n square images of noise, by default in CIFAR's size, cropped and flipped."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    part = ImageSet(pixels, np.arange(n) % classes)
    names = tuple(map(str, range(classes)))
    middle, scale, crop = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), Augmentation(4, True)
    data = Dataset("noise", names, part, None, None, middle, scale, crop)
    return on_device(data, part, device, 0)


def add_case(parser: argparse.ArgumentParser) -> None:
    """Add the options of a case."""
    usual = Case(torch.device("cpu"))
    parser.add_argument("--batch", type=int, default=usual.batch)
    parser.add_argument("--classes", type=int, default=usual.classes)
    parser.add_argument("--student", default=usual.student, help="depth-width, by default 16-1")
    parser.add_argument("--teacher", default=usual.teacher, help="depth-width, by default 40-2")


def case_of(arguments: argparse.Namespace, device: torch.device, steps: int) -> Case:
    """Return the case with `steps` steps per epoch, and make torch deterministic as in cells."""
    set_determinism()
    torch.manual_seed(0)
    if arguments.quick:
        return Case(device, 8, 4, 8 * steps, "10-1", "10-1")
    batch, classes = arguments.batch, arguments.classes
    return Case(device, batch, classes, batch * steps, arguments.teacher, arguments.student)


def takes_teacher(kind: str) -> bool:
    """Return whether a training of this kind uses a teacher."""
    without = {s.kind for m in REGISTRY.values() if not m.needs for s in m.stages}
    return kind not in without
