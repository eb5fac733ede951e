"""Views of a data set: what a cell sees of it. Nothing here imports torch.

A cell trains on `apply(dataset, view)`, or, if it trains on validation images too, on
`apply(join_validation(dataset), view)`. Few images (`shots`) are drawn from the training part alone
(harness.plan.trains_on_validation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.common.errors import UserError
from harness.data.dataset import Dataset, ImageSet
from harness.data.packed import PackedImages

Class = Annotated[int, Field(ge=0)]


class View(BaseModel):
    """The part of a data set that is kept; View() keeps all of it.

    Attributes:
        classes: The numbers of the classes that are kept, in the view's order: label i of the view
            is class classes[i]. None for all, in order.
        shots: Training images per class. Fewer shots are part of more shots, and a class has the
            same shots whatever other classes are kept. None for all.
        shots_seed: The seed of their draw; only with `shots`.
        old: The numbers of the classes that `shots` applies to; the others are new and keep all
            images. None if it applies to every class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[Class, ...], Field(min_length=1)] | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    shots_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    old: Annotated[tuple[Class, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
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

    def as_json(self) -> dict[str, Any]:
        """Return the view as plain data for a cell's config, without defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def groups(self) -> dict[str, list[int]]:
        """The view's labels of "old" and of "new" classes; empty without old classes."""
        if self.old is None or self.classes is None:
            return {}
        groups: dict[str, list[int]] = {"old": [], "new": []}
        for label, number in enumerate(self.classes):
            groups["old" if number in self.old else "new"].append(label)
        return groups


def apply(dataset: Dataset, view: View) -> Dataset:
    """Return the data set seen through a view; for View(), the same object.

    Labels are 0 to C-1 in the view's order; images keep their order in each part. Shots are drawn
    from the training part alone; validation and test keep all images of the classes. The
    normalisation stays the data set's, so that a model sees an image alike in every view. Pixels of
    a store are not copied. The result has a digest of its own.

    Raises:
        UserError: There is no such class, or a class has fewer training images than shots.
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

    def keep_classes(part: ImageSet) -> ImageSet:
        labels = new_label[part.labels]
        index = np.flatnonzero(labels >= 0)
        return ImageSet(part.images[index], labels[index])

    train = dataset.train
    if problem := lack_of_images(dataset.class_names, train.labels, view):
        raise UserError(f"view.shots: {problem}")
    if view.shots is not None:
        chosen = []
        for c in classes:
            members = np.flatnonzero(train.labels == c)
            # A stream of the class's own: other classes, and their order, change nothing.
            random = np.random.RandomState([view.shots_seed, c])
            is_limited = view.old is None or c in view.old
            chosen.append(random.permutation(members)[: view.shots] if is_limited else members)
        train = train.subset(np.sort(np.concatenate(chosen)))
    kept = _map_parts(replace(dataset, train=train), keep_classes)
    return replace(kept, class_names=tuple(dataset.class_names[c] for c in classes))


def _map_parts(dataset: Dataset, function: Callable[[ImageSet], ImageSet]) -> Dataset:
    """Return the data set with each of its parts changed by a function."""
    return replace(
        dataset,
        train=function(dataset.train),
        validation=None if dataset.validation is None else function(dataset.validation),
        test=None if dataset.test is None else function(dataset.test),
    )


def lack_of_images(names: Sequence[str], labels: np.ndarray, view: View) -> str | None:
    """Return which class has fewer training images than the view's shots, and the remedy, or None.

    `labels` are those of all training images, (N,).
    """
    if view.shots is None:
        return None
    counts = np.bincount(labels, minlength=len(names))
    least = min(view.old or view.classes or range(len(names)), key=lambda c: counts[c])
    if counts[least] >= view.shots:
        return None
    return (
        f"class {names[least]!r} has {counts[least]} training images, not {view.shots}; "
        f"use {counts[least]} or fewer"
    )


def without_pixels(dataset: Dataset) -> Dataset:
    """Return the data set with labels alone, to count images without copying pixels."""
    return _map_parts(
        dataset, lambda part: ImageSet(np.empty((len(part), 0), np.uint8), part.labels)
    )


def join_validation(dataset: Dataset) -> Dataset:
    """Return the data set with the validation images added to the training part.

    The releases train so without `flag_tuning`. The normalisation stays that of the training part.
    """
    if dataset.validation is None:
        return dataset
    first, second = dataset.train, dataset.validation
    labels = np.concatenate([first.labels, second.labels])
    images: np.ndarray | PackedImages
    if isinstance(first.images, PackedImages) and isinstance(second.images, PackedImages):
        images = first.images.concatenate(second.images)
    else:
        images = np.concatenate([first.pixels(), second.pixels()])
    return replace(dataset, train=ImageSet(images, labels), validation=None)
