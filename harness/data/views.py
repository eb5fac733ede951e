"""Views of a data set: every function Dataset -> Dataset. Nothing here imports torch.

A cell trains on apply(dataset, view), or where it trains on validation images, too, on
apply(join_validation(dataset), view): in this order, so that `shots` counts all that is trained on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.data import Dataset, ImageSet, PackedImages
from harness.data.options import Count
from harness.errors import UserError

Class = Annotated[int, Field(ge=0)]


class View(BaseModel):
    """What is kept of a data set; View() keeps it as it is. `model_dump(mode="json")` is plain data
    for a cell's spec; a seed that would change nothing there is refused.

    classes: the classes that are kept, as their numbers in the data set, and their order: label i
        of the view is class classes[i]. None: all, in order.
    shots: training images a class. Those of fewer shots are among those of more, and a class has
        the same ones whatever other classes are kept. None: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[Class, ...], Field(min_length=1)] | None = None
    shots: Count | None = None
    shots_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        twice = [c for c in self.classes or () if (self.classes or ()).count(c) > 1]
        if twice:
            raise ValueError(f"class {twice[0]} is twice among classes; keep it once")
        if self.shots_seed and self.shots is None:
            raise ValueError("shots_seed belongs to shots; give both or neither")
        return self


def apply(dataset: Dataset, view: View) -> Dataset:
    """The data set seen through a view: the very same object for View().

    Labels are int64, 0 to C-1 in the view's order; images keep their order in each part. Shots are
    drawn from the training part alone, validation and test keep all images of the kept classes. The
    normalisation stays the data set's, so that a model sees an image alike in every view. Pixels of
    a store are not copied.

    `digest` stays what it is for any data set, that of the data at hand: a viewed one has its own.
    A cell's spec holds the digest of the data set before views, and the view.

    Raises:
        UserError: the data set has no such class, or a class has fewer training images than shots.
    """
    if view == View():
        return dataset
    n_classes = len(dataset.class_names)
    classes = range(n_classes) if view.classes is None else view.classes
    if max(classes) >= n_classes:
        raise UserError(
            f"view.classes: {dataset.name} has no class {max(classes)}; use 0 to {n_classes - 1}"
        )
    new_label = np.full(n_classes, -1, np.int64)
    new_label[list(classes)] = np.arange(len(classes))

    def kept(part: ImageSet) -> ImageSet:
        labels = new_label[part.labels]
        index = np.flatnonzero(labels >= 0)
        return ImageSet(part.images[index], labels[index])

    train = dataset.train
    if view.shots is not None:
        chosen = []
        for c in classes:
            members = np.flatnonzero(train.labels == c)
            if len(members) < view.shots:
                raise UserError(
                    f"view.shots: class {dataset.class_names[c]!r} of {dataset.name} has "
                    f"{len(members)} training images, not {view.shots}; use fewer shots"
                )
            # A stream of the class's own: other classes, and their order, change nothing.
            random = np.random.RandomState([view.shots_seed, c])
            chosen.append(random.permutation(members)[: view.shots])
        train = train.take(np.sort(np.concatenate(chosen)))
    return replace(
        dataset,
        class_names=tuple(dataset.class_names[c] for c in classes),
        train=kept(train),
        validation=None if dataset.validation is None else kept(dataset.validation),
        test=None if dataset.test is None else kept(dataset.test),
    )


def join_validation(dataset: Dataset) -> Dataset:
    """Train on train + validation, as the releases do without `flag_tuning`: no validation left.
    The normalisation stays that of the training part."""
    if dataset.validation is None:
        return dataset
    first, second = dataset.train, dataset.validation
    labels = np.concatenate([first.labels, second.labels])
    images: np.ndarray | PackedImages
    if isinstance(first.images, PackedImages) and isinstance(second.images, PackedImages):
        images = first.images.joined(second.images)
    else:
        images = np.concatenate([first.pixels(), second.pixels()])
    return replace(dataset, train=ImageSet(images, labels), validation=None)
