"""Data sets, splits and batches. torchvision is the independent word on crops."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from data_files import part_digests
from helpers import run_python
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as tv

from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, ImageSet, load, normalisation
from harness.data.batches import Batch, epoch_generator
from harness.data.sets import digits as digits_module
from harness.data.sets.digits import DigitsOptions
from harness.data.small import DeviceImages
from harness.data.split import draw_stratified, split
from harness.data.views import join_validation

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
OPTIONS = DigitsOptions(validation=100, test=500)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(OPTIONS)


def parts(dataset: Dataset) -> list[ImageSet]:
    return [dataset.train, dataset.validation, dataset.test]


# The digits


def test_sizes_and_format(digits: Dataset) -> None:
    assert [len(p) for p in parts(digits)] == [1197, 100, 500]
    assert digits.class_names == tuple("0123456789")
    for part in parts(digits):
        assert part.images.shape == (len(part), 8, 8, 3)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert (part.images == part.images[..., :1]).all()
    assert digits.train.images.max() == 255


def test_every_digit_is_in_exactly_one_part(digits: Dataset) -> None:
    everything = load_digits_rows()
    rows = np.vstack([np.c_[p.images[..., 0].reshape(-1, 64), p.labels] for p in parts(digits)])
    assert len(np.unique(everything, axis=0)) == 1797
    assert np.array_equal(np.unique(rows, axis=0), np.unique(everything, axis=0))


@pytest.mark.parametrize("place", [digits_module.FILE, Path("elsewhere.csv.gz")])
def test_they_are_scikit_learns(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file, or by it where the file is not in the place that is known."""
    from sklearn import datasets

    called = []
    bunch, load_digits = datasets.load_digits(), datasets.load_digits
    monkeypatch.setattr(digits_module, "FILE", place)
    monkeypatch.setattr(datasets, "load_digits", lambda: (called.append(1), load_digits())[1])
    images, labels = digits_module.read_digits()
    assert (images.dtype, labels.dtype) == (bunch.images.dtype, np.int64)
    assert np.array_equal(images, bunch.images) and np.array_equal(labels, bunch.target)
    assert len(called) == (place.name == "elsewhere.csv.gz")


def test_the_digest_is_the_one_of_all_stored_cells(digits: Dataset) -> None:
    assert digits.digest.startswith("033be43c9591de7f")


def load_digits_rows() -> np.ndarray:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.c_[np.round(bunch.data * 255 / 16).astype(int), bunch.target]


def test_normalisation_comes_from_the_training_part_alone(digits: Dataset) -> None:
    pixels = digits.train.images / 255
    np.testing.assert_allclose(digits.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(digits.std, pixels.std((0, 1, 2)))
    everything = np.concatenate([p.images for p in parts(digits)])
    assert digits.mean != normalisation(everything)[0]


def test_normalisation_is_per_channel() -> None:
    images = np.zeros((2, 1, 1, 3), np.uint8)
    images[0], images[1] = (0, 51, 255), (255, 102, 255)
    mean, std = normalisation(images)
    np.testing.assert_allclose(mean, (0.5, 0.3, 1))
    # A constant channel: nothing to divide by.
    np.testing.assert_allclose(std, (0.5, 0.1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1300, "test": 500}, "dataset.validation: 1300 of 1297 images"),
        ({"validation": 9, "test": 500}, "dataset.validation: .*use 10 to 1287"),
        ({"validation": 100, "test": 1790}, "dataset.test: .*use 10 to 1777"),
        ({"validation": 297, "test": 1600}, "dataset.validation: "),
    ],
)
def test_split_that_does_not_fit_is_refused_by_name(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=rf"^{message}"):
        load(DigitsOptions(**options))


def test_largest_split_seed_works() -> None:
    assert len(load(DigitsOptions(split_seed=2**32 - 2)).train) == 1000


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, "49f826e7ab52 a184aa89bd10 72d6e1a103b2"),
        ({"split_seed": 1}, "e3e5d23e762c c9ca4032516c 23d58eb44f87"),
        (
            {"validation": 100, "test": 1400, "split_seed": 7},
            "4552c65ef886 a5f3eea2acd5 bac38adf89c2",
        ),
    ],
)
def test_parts_are_frozen(options: dict[str, int], frozen: str) -> None:
    assert part_digests(load(DigitsOptions(**options))) == frozen


# Digests


def test_digest_is_the_same_in_another_process(digits: Dataset) -> None:
    code = (
        "from harness.data import load\n"
        "from harness.data.sets.digits import DigitsOptions\n"
        "print(load(DigitsOptions(validation=100, test=500)).digest)"
    )
    assert run_python(code, PYTHONHASHSEED="99").stdout.strip() == digits.digest


def test_digest_sees_every_change(digits: Dataset) -> None:
    pixel = digits.train.images.copy()
    pixel[-1, -1, -1, -1] ^= 1
    label = digits.train.labels.copy()
    label[0] = (label[0] + 1) % 10
    boundary = {
        "train": ImageSet(digits.train.images[:-1], digits.train.labels[:-1]),
        "validation": ImageSet(
            np.concatenate([digits.train.images[-1:], digits.validation.images]),
            np.concatenate([digits.train.labels[-1:], digits.validation.labels]),
        ),
    }
    variants = [
        digits,
        load(OPTIONS.model_copy(update={"split_seed": 1})),
        replace(digits, train=replace(digits.train, images=pixel)),
        replace(digits, train=replace(digits.train, labels=label)),
        replace(digits, **boundary),
        replace(digits, test=None),
        replace(digits, validation=None, test=digits.validation),
        replace(digits, validation=digits.test, test=digits.validation),
        replace(digits, class_names=tuple("9876543210")),
        replace(digits, augmentation=Augmentation(padding=1, flip=True)),
        join_validation(digits),
    ]
    assert len({v.digest for v in variants}) == len(variants)


# Stratified splits

LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=60).map(np.array)


@given(labels=LABELS, n=st.integers(-1, 61), seed=st.integers(0, 2**32 - 1))
def test_stratified(labels: np.ndarray, n: int, seed: int) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    try:
        index = draw_stratified(labels, n, seed, "dataset.test")
    except UserError as error:
        assert str(error).startswith("dataset.test: ")
        exact = counts * n / len(labels)
        # Refused only where rounding can leave a class empty on one side.
        assert (exact < 1).any() or (counts - exact < 1).any()
        return
    assert len(index) == n
    assert (np.diff(index) > 0).all()
    for c, count in zip(classes, counts, strict=True):
        taken = (labels[index] == c).sum()
        assert abs(taken - count * n / len(labels)) < 1
        assert 0 < taken < count
    np.testing.assert_array_equal(index, draw_stratified(labels, n, seed, "dataset.test"))


def sizes_named(error: UserError) -> tuple[int, int] | None:
    """The range that a refusal tells to use; None where it tells to add images."""
    found = re.search(r"; use (\d+)(?: to (\d+))?$", str(error))
    return (int(found[1]), int(found[2] or found[1])) if found else None


@given(labels=LABELS, n=st.integers(-1, 61), stay=st.integers(1, 2), pick=st.floats(0, 1))
def test_what_a_refused_split_tells_to_use_works(
    labels: np.ndarray, n: int, stay: int, pick: float
) -> None:
    try:
        draw_stratified(labels, n, 0, "f", remaining=stay)
    except UserError as error:
        counts = np.bincount(labels)[np.bincount(labels) > 0]
        if (named := sizes_named(error)) is None:
            assert "add images to the smallest class" in str(error)
            assert counts.min() <= 2 * stay + 1  # a larger class can always be split
        else:
            low, high = named
            draw_stratified(labels, round(low + pick * (high - low)), 0, "f", remaining=stay)


@pytest.mark.parametrize("images", [1, 2, 3, 4, 5, 9])
def test_remedies_for_a_small_class_lead_to_a_split(images: int) -> None:
    labels = np.array([0] * 100 + [1] * images + [2] * 100)
    sizes: dict[str, float] = {"dataset.validation": 0.1, "dataset.test_size": 0.2}
    names = ["gull", "auk", "tern"]
    for _ in range(4):
        try:
            parts = split(labels, 0, *sizes.values(), names=names)
        except UserError as error:
            assert "class 'auk'" in str(error)
            if images < 3:
                text = f"has {images} image" + "s" * (images > 1) + " to split, but train,"
                assert text in str(error) and f"; add {3 - images} or more" in str(error)
                return
            named = sizes_named(error)
            assert named is not None, error
            sizes[str(error).partition(":")[0]] = named[0]
        else:
            assert all(np.unique(labels[part]).tolist() == [0, 1, 2] for part in parts)
            return
    raise AssertionError("the remedies lead nowhere")


# Other parts: tuning has no test images, the releases train on validation images, too


def test_load_without_the_test_images(digits: Dataset) -> None:
    without = load(OPTIONS, with_test=False)
    assert without.test is None
    assert without.digest == replace(digits, test=None).digest


def test_join_validation(digits: Dataset) -> None:
    joined = join_validation(digits)
    assert joined.validation is None
    assert len(joined.train) == 1297
    np.testing.assert_array_equal(joined.train.images[:1197], digits.train.images)
    np.testing.assert_array_equal(joined.train.labels[1197:], digits.validation.labels)
    assert (joined.mean, joined.std, joined.test) == (digits.mean, digits.std, digits.test)
    assert join_validation(joined) is joined


# Batches


def noise(n: int, size: int, padding: int = 0, flip: bool = False) -> Dataset:
    """Random images; each label is the image's position."""
    images = np.random.RandomState(0).randint(0, 256, (n, size, size, 3)).astype(np.uint8)
    part = ImageSet(images, np.arange(n))
    mean, std = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)
    return Dataset("noise", ("a",), part, None, None, mean, std, Augmentation(padding, flip))


def on_cpu(dataset: Dataset) -> DeviceImages:
    return DeviceImages(dataset, dataset.train, CPU)


def augmented(dataset: Dataset, size: int, seed: int = 0, epoch: int = 0) -> list[Batch]:
    return list(on_cpu(dataset).augmented(size, epoch_generator(seed, epoch)))


def reference(dataset: Dataset, images: Tensor) -> Tensor:
    """torchvision's normalisation of (N, 3, H, W) uint8."""
    return tv.normalize(images / 255, list(dataset.mean), list(dataset.std))


def channels_first(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.train.images).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [
        *((10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 4, [4, 5]), (5, 4, [5])),
        *((3, 4, [3]), (4, 4, [4]), (1, 4, [1]), (5, 2, [2, 3])),
    ],
)
def test_every_image_once_and_no_batch_of_one(n: int, size: int, expected: list[int]) -> None:
    batches = augmented(noise(n, 4), size)
    assert [len(b.y) for b in batches] == [len(b.x) for b in batches] == expected
    assert sorted(torch.cat([b.y for b in batches]).tolist()) == list(range(n))
    assert all(torch.equal(b.y, b.y_cpu) for b in batches)


def test_index_names_the_images() -> None:
    dataset = noise(30, 4)
    dataset = replace(dataset, train=replace(dataset.train, labels=np.arange(30) % 7))
    originals = reference(dataset, channels_first(dataset))
    for batches in (list(on_cpu(dataset).plain(8)), augmented(dataset, 8)):
        for batch in batches:
            assert batch.index.dtype == torch.int64
            torch.testing.assert_close(batch.x, originals[batch.index])
            assert torch.equal(batch.y, batch.index % 7) and torch.equal(batch.y_cpu, batch.y)
        assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(30))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return all(torch.equal(i.x, j.x) and torch.equal(i.y, j.y) for i, j in zip(a, b, strict=True))


def test_an_epoch_follows_from_seed_and_epoch_alone() -> None:
    dataset = noise(20, 4, padding=2, flip=True)
    first = augmented(dataset, 8, seed=3, epoch=5)
    torch.manual_seed(1)
    torch.rand(100)
    assert same(first, augmented(dataset, 8, seed=3, epoch=5))
    for seed, epoch in ((3, 6), (4, 5), (5, 3), (35, 0)):
        assert not same(first, augmented(dataset, 8, seed=seed, epoch=epoch))


def test_epochs_have_distinct_streams() -> None:
    seeds = {epoch_generator(s, e).initial_seed() for s in range(20) for e in range(50)}
    assert len(seeds) == 1000


def test_plain_images_are_never_augmented() -> None:
    dataset = noise(20, 6, padding=2, flip=True)
    images = on_cpu(dataset)
    batches = list(images.plain(batch_size=8))
    assert [len(b.y) for b in batches] == [8, 8, 4]
    torch.testing.assert_close(
        torch.cat([b.x for b in batches]), reference(dataset, channels_first(dataset))
    )
    assert torch.cat([b.y for b in batches]).tolist() == list(range(20))
    assert same(batches, list(images.plain(batch_size=8)))


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_torchvisions_pixel_for_pixel(flip: bool) -> None:
    n, dataset = 150, noise(150, 32, padding=4, flip=flip)
    ours = torch.cat([b.x for b in augmented(dataset, 64, seed=3, epoch=7)])
    generator = epoch_generator(3, 7)
    order = torch.randperm(n, generator=generator)
    offsets = torch.randint(0, 9, (2, n), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    for i, image in enumerate(channels_first(dataset)[order]):
        top, left = offsets[:, i].tolist()
        crop = tv.crop(tv.pad(image, [4], fill=0), top, left, 32, 32)
        crop = tv.hflip(crop) if flip and flips[i] else crop
        torch.testing.assert_close(ours[i], reference(dataset, crop), rtol=0, atol=2e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_training_images_are_crops_of_the_black_padded_original(flip: bool) -> None:
    """Each image's offsets are recovered by trying all of torchvision's; they are uniform."""
    n, size, pad = 2000, 5, 2
    dataset = noise(n, size, padding=pad, flip=flip)
    batches = augmented(dataset, 64)
    x, order = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    padded = tv.pad(channels_first(dataset)[order], [pad], fill=0)
    matches = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            for mirrored in (False, True):
                crop = tv.crop(padded, top, left, size, size)
                crop = reference(dataset, tv.hflip(crop) if mirrored else crop)
                equal = (x - crop).abs().amax((1, 2, 3)) < 1e-5
                matches[top, left, mirrored] = int(equal.sum())
    possible = [count for key, count in matches.items() if flip or not key[2]]
    assert sum(possible) == sum(matches.values()) == n and min(possible) > 0
    assert scipy.stats.chisquare(possible).pvalue > 1e-3


def test_images_are_channels_last_for_the_convolutions() -> None:
    batch = augmented(noise(8, 4), 8)[0]
    assert batch.x.is_contiguous(memory_format=torch.channels_last)
    assert batch.x.dtype == torch.float32
