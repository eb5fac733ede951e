"""`harness evaluate`: the accuracy of a network on any data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from harness.common.errors import UserError, first_error, nearest
from harness.data import DATASETS, Dataset, DatasetOptions
from harness.data import load as load_data
from harness.data.decode import center_crop
from harness.data.listing import Reader, Tally, find_parts
from harness.data.placement import on_device
from harness.experiment.file import experiment_file, read
from harness.train.data_request import load_dataset
from harness.train.evaluate import logits_of
from harness.trained.model import TrainedModel

Part = Literal["test", "validation", "train"]


@dataclass(frozen=True)
class Evaluation:
    """A measured accuracy.

    Attributes:
        correct: The number of images that were classified correctly.
        n: The number of images.
        unknown: The number of images left out because the network does not have their class.
        where: What the network was measured on.
        trained_on: The number of images among these that it was trained on, pixel by pixel; None if
            its training images are not here.
        may_have_trained: Whether it was trained on another split of these data, perhaps on some of
            these images.
    """

    correct: int
    n: int
    unknown: int
    where: str
    trained_on: int | None = None
    may_have_trained: bool = False

    @property
    def accuracy(self) -> float:
        """The share of correctly classified images."""
        return self.correct / self.n

    def __str__(self) -> str:
        text = f"accuracy {100 * self.accuracy:.2f} %: {self.correct} of {self.n} images correct"
        if self.unknown:
            text += f"; {self.unknown} images of unknown classes left out"
        text += f" ({self.where})"
        if self.trained_on:
            text += (
                f"\nwarning: {self.trained_on} of these images are among those that it was trained "
                "on, to the last pixel; its accuracy on others is lower"
            )
        elif self.trained_on is None and self.may_have_trained:
            text += (
                "\nwarning: it was trained with another split of these data, perhaps on some of "
                "these images; name the experiment's file as --dataset"
            )
        return text


def evaluate(model: TrainedModel, dataset: str, part: Part = "test") -> Evaluation:
    """Measure the accuracy of a network.

    Args:
        model: The network.
        dataset: The name of a data set, an experiment file (for its data set), or a folder with
            one folder of images per class.
        part: Which images to use. Of a folder without parts, all.

    Raises:
        UserError: There are no such data, or they have none of the network's classes.
    """
    model.check_classifies()
    if dataset not in DATASETS and Path(dataset).is_dir():
        return _on_folder(model, Path(dataset), part)
    options = _options(dataset, model)
    data = load_data(options, check_pixels=True)
    images = getattr(data, part)
    if images is None:
        raise UserError(f"--part: {data.name} has no {part} images; choose another part")
    _check_size(model, data)
    # Normalise as in training.
    mean, std = (tuple(value.flatten().tolist()) for value in (model.mean, model.std))
    placed_images = on_device(
        replace(data, mean=mean, std=std), images, model.mean.device, n_workers=0
    )
    names = [data.class_names[label] for label in images.labels.tolist()]
    evaluation = _measured(
        model, names, f"{part} of {data.name}", lambda: logits_of(model.network, placed_images)
    )
    # An official test split stays the same, however the rest is split.
    is_drawn = part != "test" or options.test_is_drawn
    other = model.data == data.name and model.data_digest != data.digest
    pixels = (images.images[i] for i in range(len(images)))
    seen = None if part == "train" else n_trained_on(model, pixels)
    return replace(evaluation, trained_on=seen, may_have_trained=is_drawn and other)


def n_trained_on(model: TrainedModel, images: Iterable[np.ndarray]) -> int | None:
    """Count the images that a network was trained on, by a digest of the pixels that it gets.

    Args:
        model: The network.
        images: Decoded images, (H, W, 3) uint8, at least as large as the network's input.

    Returns:
        None if its training images cannot be found on this machine.
    """
    if model.cell is None:
        return None
    try:
        trained = load_dataset(model.cell, model.cell.cell.config).train.images
    except UserError:  # they have changed, or are elsewhere
        return None
    known = {_digest(model, trained[i]) for i in range(len(trained))}
    return sum(_digest(model, image) in known for image in images)


def _digest(model: TrainedModel, image: np.ndarray) -> bytes:
    """Return a digest of the centre of an image, which is what a network is measured on."""
    pixels = np.ascontiguousarray(center_crop(image, *model.image_size))
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


def _options(dataset: str, model: TrainedModel) -> DatasetOptions:
    if dataset not in DATASETS and (file := experiment_file(dataset)) is not None:
        return read(file).dataset
    if dataset not in DATASETS:
        raise UserError(
            f"--dataset: {dataset!r} is no folder, no experiment file and no data set"
            f"{nearest(dataset, DATASETS)}"
        )
    options, fields = DATASETS[dataset], dict[str, Any](name=dataset)
    if "image_size" in options.model_fields:  # of several sizes, the network's
        fields["image_size"] = model.image_size[0]
    try:
        return options.model_validate(fields)
    except ValidationError as error:
        raise UserError(first_error(error, options, f"--dataset {dataset}")) from None


def _check_size(model: TrainedModel, data: Dataset) -> None:
    if data.image_size != model.image_size:
        theirs, ours = ("x".join(map(str, size)) for size in (data.image_size, model.image_size))
        raise UserError(
            f"--dataset: {data.name} has images of {theirs} pixels, the network has learned from "
            f"{ours}; name a folder, whose images are scaled"
        )


def _on_folder(model: TrainedModel, path: Path, part: Part) -> Evaluation:
    parts = find_parts(path, Tally(), takes_validation=part == "validation", draws_test=True)
    folder = (parts.test or parts.train) if part == "test" else getattr(parts, part)
    files = Reader(Tally()).class_files(folder)
    pictures = [Path(file) for name in files for file in files[name]]
    names = [name for name in files for _ in files[name]]
    evaluation = _measured(model, names, str(path), lambda: model.probabilities(pictures))
    return replace(evaluation, trained_on=n_trained_on(model, map(model.pixels, pictures)))


def _measured(
    model: TrainedModel, names: list[str], where: str, scores: Callable[[], Tensor]
) -> Evaluation:
    """Compare predictions with the names of the images' classes.

    `scores` returns (N, classes); the largest score is the prediction.
    """
    known = {name: i for i, name in enumerate(model.class_names)}
    labels = torch.tensor([known.get(name, -1) for name in names])
    n = int((labels >= 0).sum())
    if n == 0:
        raise UserError(
            f"--dataset: none of its classes is one of the network's; these are "
            f"{', '.join(model.class_names[:5])}{', ..' if len(known) > 5 else ''}"
        )
    correct = int((scores().cpu().argmax(1) == labels).sum())
    return Evaluation(correct, n, len(names) - n, where)
