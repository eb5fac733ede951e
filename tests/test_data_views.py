"""Views: which images, labels and classes of a data set a cell sees."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, ImageSet, PackedImages, ResizedCrop
from harness.data.cache import Contents, cached_store
from harness.data.views import View, apply, join_validation

NAMES = ("ant", "bee", "cat", "dog")
LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(4), (20, 16, 12, 24)))
PARTS = {"train": slice(0, 40), "validation": slice(40, 55), "test": slice(55, 72)}


def picture(i: int, size: int = 2) -> np.ndarray:
    """Image i of one colour, which is its number."""
    return np.full((size, size, 3), i, np.uint8)


def in_memory() -> Dataset:
    images = np.stack([picture(i) for i in range(len(LABELS))])
    parts = {k: ImageSet(images[s], LABELS[s]) for k, s in PARTS.items()}
    return Dataset(
        "pets", NAMES, **parts, mean=(0.1,) * 3, std=(0.2,) * 3, augmentation=Augmentation(0, False)
    )


@pytest.fixture(params=["in memory", "in a store"])
def dataset(request: pytest.FixtureRequest, data_root: Path) -> Dataset:
    """Either kind of data set; the store's images are of two sizes."""
    if request.param == "in memory":
        return in_memory()
    images = [picture(i, 2 + i % 2) for i in range(len(LABELS))]
    store = cached_store({"path": "pets"}, lambda: Contents(images, LABELS, NAMES))
    every = np.arange(len(LABELS))
    parts = {k: ImageSet(store.images(every[s]), LABELS[s]) for k, s in PARTS.items()}
    return replace(in_memory(), **parts, augmentation=ResizedCrop(2, flip=True))


def numbers(part: ImageSet | None) -> list[int]:
    """Which images these are."""
    return [int(part.images[i][0, 0, 0]) for i in range(len(part))]


def all_numbers(dataset: Dataset) -> list[list[int]]:
    return [numbers(p) for p in (dataset.train, dataset.validation, dataset.test)]


def test_the_identity_is_the_very_same_object(dataset: Dataset) -> None:
    assert apply(dataset, View()) is dataset


def test_classes_choose_and_order(dataset: Dataset) -> None:
    seen = apply(dataset, View(classes=(3, 0)))
    assert seen.class_names == ("dog", "ant")
    assert (seen.mean, seen.std, seen.augmentation) == (
        dataset.mean,
        dataset.std,
        dataset.augmentation,
    )
    for name, part in PARTS.items():
        got = getattr(seen, name)
        every = range(part.start, part.stop)
        assert numbers(got) == [i for i in every if LABELS[i] in (0, 3)]
        assert got.labels.dtype == np.int64
        assert [(3, 0)[label] for label in got.labels] == LABELS[numbers(got)].tolist()
        assert isinstance(got.images, PackedImages) == isinstance(
            dataset.train.images, PackedImages
        )


def test_shots_are_nested_seeded_and_of_the_training_part(dataset: Dataset) -> None:
    _, validation, test = all_numbers(dataset)
    drawn: dict[tuple[int, int], list[int]] = {}
    for seed in (0, 1):
        for shots in (1, 3, 5):
            seen = apply(dataset, View(shots=shots, shots_seed=seed))
            assert np.bincount(seen.train.labels).tolist() == [shots] * 4
            drawn[seed, shots] = numbers(seen.train)
            assert drawn[seed, shots] == sorted(drawn[seed, shots])  # in the part's order
            assert LABELS[drawn[seed, shots]].tolist() == seen.train.labels.tolist()
            assert all_numbers(seen)[1:] == [validation, test]
        assert {*drawn[seed, 1]} < {*drawn[seed, 3]} < {*drawn[seed, 5]} < {*range(40)}
    assert drawn[0, 5] != drawn[1, 5]
    # A seed means the same images in every version.
    assert drawn[0, 1] == [8, 17, 24, 29]


def test_a_class_has_the_same_shots_whatever_other_classes_are_kept(dataset: Dataset) -> None:
    alone = numbers(apply(dataset, View(classes=(2,), shots=4)).train)
    every = apply(dataset, View(shots=4)).train
    turned = apply(dataset, View(classes=(3, 2), shots=4)).train
    assert alone == [i for i in numbers(every) if LABELS[i] == 2]
    assert alone == [i for i in numbers(turned) if LABELS[i] == 2]
    assert turned.labels[np.isin(numbers(turned), alone)].tolist() == [1] * 4


def test_joined_first_shots_count_validation_images_too(dataset: Dataset) -> None:
    joined = join_validation(dataset)
    seen = apply(joined, View(shots=6))
    assert seen.validation is None and np.bincount(seen.train.labels).tolist() == [6] * 4
    assert {*numbers(seen.train)} & {*range(40, 55)} and {*numbers(seen.train)} < {*range(55)}


def test_a_view_without_a_test_part(dataset: Dataset) -> None:
    seen = apply(replace(dataset, test=None, validation=None), View(classes=(1, 2)))
    assert seen.test is None and seen.validation is None


def test_every_view_has_its_own_digest(dataset: Dataset) -> None:
    views = [
        View(),
        View(classes=(0, 1)),
        View(classes=(1, 0)),
        View(shots=2),
        View(shots=3),
        View(shots=2, shots_seed=1),
        View(shots=2, classes=(0, 1)),
    ]
    assert len({apply(dataset, view).digest for view in views}) == len(views)
    assert apply(dataset, views[-1]).digest == apply(dataset, views[-1]).digest


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"classes": (0, 4)}, r"^view\.classes: pets has no class 4; use 0 to 3$"),
        ({"shots": 9}, r"^view\.shots: class 'cat' has 5 training images, not 9; use 5 or fewer$"),
    ],
)
def test_a_view_that_does_not_fit_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        apply(in_memory(), View(**fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"classes": ()}, "at least 1 item"),
        ({"classes": (2, 0, 2)}, "class 2 is twice among classes; keep it once"),
        ({"classes": (-1,)}, "greater than or equal to 0"),
        ({"shots": 0}, "shots: 0 leaves no training images"),
        ({"shots": -1}, "greater than or equal to 0"),
        ({"old": (0,)}, "old: some of `classes`"),
        ({"old": (0, 1), "classes": (0, 1)}, "old: some of `classes`"),
        ({"old": (2,), "classes": (0, 1)}, "old: some of `classes`"),
        ({"shots_seed": 1}, "shots_seed belongs to shots"),
        ({"shot": 1}, "shot\n"),
    ],
)
def test_a_view_that_never_fits_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        View.model_validate(fields)


def test_a_view_is_plain_data() -> None:
    view = View(classes=(5, 2), shots=3, shots_seed=4)
    plain = view.as_json()
    assert plain == {"classes": [5, 2], "shots": 3, "shots_seed": 4}
    assert View.model_validate(json.loads(json.dumps(plain))) == view and len({view, view}) == 1
