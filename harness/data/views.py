"""Views of a data set: every function Dataset -> Dataset. Nothing here imports torch.

A cell trains on apply(dataset, view), or where it trains on validation images, too, on
apply(join_validation(dataset), view): in this order, so that `shots` counts all that is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.common.errors import UserError
from harness.data import Dataset, ImageSet, PackedImages

Class = Annotated[int, Field(ge=0)]


class View(BaseModel):
    """What is kept of a data set; View() keeps it as it is. A seed that would change nothing in a
    cell's spec is refused.

    classes: the classes that are kept, as their numbers in the data set, and their order: label i
        of the view is class classes[i]. None: all, in order.
    shots: training images a class. Those of fewer shots are among those of more, and a class has
        the same ones whatever other classes are kept. None: all.
    old: the classes, by their numbers in the data set, that `shots` counts for: the others are new
        and keep all images. None: it counts for every class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[Class, ...], Field(min_length=1)] | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    shots_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    old: Annotated[tuple[Class, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        twice = [c for c in self.classes or () if (self.classes or ()).count(c) > 1]
        if twice:
            raise ValueError(f"class {twice[0]} is twice among classes; keep it once")
        if self.shots_seed and self.shots is None:
            raise ValueError("shots_seed belongs to shots; give both or neither")
        if self.shots == 0 and self.old is None:
            raise ValueError("shots: 0 leaves no training images; use 1 or more")
        if self.old is not None and not set(self.old) < set(self.classes or ()):
            raise ValueError("old: some of `classes`, and not all of them; name those, too")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """As plain data for a cell's spec, without what it does not change."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def groups(self) -> dict[str, list[int]]:
        """ "old" and "new" -> their labels in the view; nothing where there are no old classes."""
        if self.old is None or self.classes is None:
            return {}
        is_old = [c in self.old for c in self.classes]
        return {
            name: [label for label, old in enumerate(is_old) if old is wanted]
            for name, wanted in (("old", True), ("new", False))
        }


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
    if lacking := few_images(dataset.class_names, train.labels, view):
        raise UserError(f"view.shots: {lacking}")
    if view.shots is not None:
        chosen = []
        for c in classes:
            members = np.flatnonzero(train.labels == c)
            # A stream of the class's own: other classes, and their order, change nothing.
            random = np.random.RandomState([view.shots_seed, c])
            is_limited = view.old is None or c in view.old
            chosen.append(random.permutation(members)[: view.shots] if is_limited else members)
        train = train.take(np.sort(np.concatenate(chosen)))
    return replace(
        dataset,
        class_names=tuple(dataset.class_names[c] for c in classes),
        train=kept(train),
        validation=None if dataset.validation is None else kept(dataset.validation),
        test=None if dataset.test is None else kept(dataset.test),
    )


def few_images(names: Sequence[str], labels: np.ndarray, view: View) -> str | None:
    """Which class has fewer images than a view's shots, and what to do; None if none has.

    labels: (N,), of the training images.
    """
    if view.shots is None:
        return None
    counts = np.bincount(labels, minlength=len(names))
    limited = view.old or view.classes or range(len(names))
    least = min(limited, key=lambda c: counts[c])
    if counts[least] >= view.shots:
        return None
    return (
        f"class {names[least]!r} has {counts[least]} training images, not {view.shots}; "
        f"use {counts[least]} or fewer"
    )


def without_pixels(dataset: Dataset) -> Dataset:
    """Its labels alone, for who counts what a view holds: pixels of a large set are not copied."""

    def bare(part: ImageSet) -> ImageSet:
        return ImageSet(np.empty((len(part), 0), np.uint8), part.labels)

    return replace(
        dataset,
        train=bare(dataset.train),
        validation=None if dataset.validation is None else bare(dataset.validation),
        test=None if dataset.test is None else bare(dataset.test),
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
