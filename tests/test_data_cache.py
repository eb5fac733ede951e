"""The cache of decoded images, and its stores as image sets."""

import contextlib
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from data_files import parquet, structs, write_parquet, write_tiny
from helpers import Output, Patch, wrong
from PIL import Image

import harness.data
from harness.data import DATASETS, cache, decode, normalisation, using_data_root
from harness.data.cache import Contents, cached_store, drop_broken
from harness.data.packed import ImageStore, PackedImages, open_store
from harness.data.placement import on_device
from harness.data.small import DeviceImages
from harness.train.data_request import DataRequest

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("data_root")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


def no_decoding(*_: object) -> None:
    raise AssertionError("decoded again")


def test_decoded_once(tiny: Path, monkeypatch: Patch) -> None:
    first = parquet(tiny)
    monkeypatch.setattr(decode, "read_rgb", no_decoding)
    second = parquet(tiny)
    assert second.digest == first.digest
    np.testing.assert_array_equal(second.train.pixels(), first.train.pixels())
    assert parquet(tiny, validation=6).digest != first.digest  # another split, the same store


def test_a_changed_file_is_decoded_again(tiny: Path) -> None:
    first = parquet(tiny).digest
    write_parquet(tiny / "test.parquet", structs(range(40, 46)), np.arange(6) % 3)
    assert parquet(tiny).digest != first


def test_the_digest_does_not_depend_on_place_or_time(tiny: Path) -> None:
    first = parquet(tiny).digest
    os.rename(tiny, tiny.parent / "moved")
    os.utime(tiny.parent / "moved" / "test.parquet")
    assert parquet(tiny.parent / "moved").digest == first


def test_a_broken_store_is_made_again(tiny: Path, data_root: Path) -> None:
    first = parquet(tiny).digest
    pixels = max(data_root.glob(".cache/*/pixels.bin"), key=os.path.getsize)
    os.truncate(pixels, 1000)
    assert parquet(tiny).digest == first
    (pixels.parent / "meta.json").write_text('{"bytes"')
    assert parquet(tiny).digest == first
    left_over = pixels.parent.with_name(f".{pixels.parent.name}.0a1b.tmp")  # of a killed process
    left_over.mkdir()
    (pixels.parent / "index.npz").unlink()
    assert parquet(tiny).digest == first
    assert not left_over.exists()


def test_many_at_once_decode_once(tiny: Path, monkeypatch: Patch) -> None:
    decoded, digests, real = [], [], decode.read_rgb

    def counting(item: decode.Encoded) -> Image.Image:
        decoded.append(item.name)
        return real(item)

    monkeypatch.setattr(decode, "read_rgb", counting)
    threads = [
        threading.Thread(target=lambda: digests.append(parquet(tiny).digest)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 36 and len(set(digests)) == 1 and len(digests) == 4


def test_where_locks_do_not_reach_the_first_to_finish_is_used(
    tiny: Path, data_root: Path, monkeypatch: Patch
) -> None:
    """Two containers on one volume decode the same files at the same time."""
    monkeypatch.setattr(cache, "locked", lambda *_: contextlib.nullcontext())
    real, digests = decode.read_rgb, []

    def slower(item: decode.Encoded) -> Image.Image:
        monkeypatch.setattr(decode, "read_rgb", real)
        digests.append(parquet(tiny).digest)
        return real(item)

    monkeypatch.setattr(decode, "read_rgb", slower)
    assert [parquet(tiny).digest] == digests
    assert not [*data_root.glob(".cache/.*")]


def test_unwritable_data_root(tiny: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_DATA_ROOT", str(tmp_path / "file" / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    digest = parquet(tiny).digest  # among the temporary files
    monkeypatch.setattr(decode, "read_rgb", no_decoding)
    assert parquet(tiny).digest == digest
    (tmp_path / f"harness-{os.getuid()}").chmod(0o777)  # others could have put images there
    wrong(lambda: parquet(tiny), "dataset: ", "--data-root")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    wrong(lambda: parquet(tiny), "dataset: ", "--data-root")


def test_a_data_root_by_argument_goes_before_the_environments(
    tiny: Path, tmp_path: Path, data_root: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    seen = []

    def look() -> None:
        seen.append(harness.data.data_root())

    look()
    with using_data_root(first):
        look()
        with using_data_root(None):
            look()
        with pytest.raises(ZeroDivisionError), using_data_root(str(second)):
            look()
            parquet(tiny)  # decoded into it
            raise ZeroDivisionError
        look()
        thread = threading.Thread(target=look)  # another thread's data lie where they did
        thread.start()
        thread.join()
    look()
    assert seen == [data_root, first, first, second, first, data_root, data_root]
    assert len([*second.glob(".cache/*/pixels.bin")]) == 2
    assert not data_root.exists() and not first.exists()


def test_a_relative_data_root_is_made_absolute(here: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    with using_data_root("near"):
        assert harness.data.data_root() == here / "near"
    with using_data_root("~/far"):
        assert harness.data.data_root() == here / "home" / "far"
    monkeypatch.delenv("HARNESS_DATA_ROOT")
    assert harness.data.data_root() == here / "data"


def test_no_space(tiny: Path, data_root: Path, monkeypatch: Patch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write_files", full)
    wrong(lambda: parquet(tiny), "dataset: ", "No space left on device")
    assert not [p for p in (data_root / ".cache").iterdir() if p.is_dir()]


def test_a_long_decode_is_announced_once(tiny: Path, monkeypatch: Patch, capsys: Output) -> None:
    monkeypatch.setattr(cache, "ANNOUNCED", 30)
    parquet(tiny)
    parquet(tiny)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"decoding 30 images of {tiny}, once, into ")


# Stores as image sets.


def test_subsets_and_workers_see_the_same_images(tiny: Path) -> None:
    train = parquet(tiny).train
    images = train.images
    assert isinstance(images, PackedImages)
    some = train.subset(np.array([5, 2, 2]))
    np.testing.assert_array_equal(some.pixels(), train.pixels()[[5, 2, 2]])
    np.testing.assert_array_equal(some.labels, train.labels[[5, 2, 2]])
    assert some.images.digest != images.digest
    data = pickle.dumps(images)
    assert len(data) < 5000  # the path, not the pixels
    again = pickle.loads(data)
    assert again.digest == images.digest
    np.testing.assert_array_equal(again[3], images[3])
    with pytest.raises(ValueError, match="read-only"):
        images[0][0, 0, 0] = 1


def test_normalisation_from_sums_is_that_of_the_pixels(tiny: Path) -> None:
    train = parquet(tiny).train
    for got, expected in zip(
        normalisation(train.images), normalisation(train.pixels()), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_batches_of_a_store(tiny: Path) -> None:
    dataset = parquet(tiny)
    images = on_device(dataset, dataset.test, CPU, 0)
    assert isinstance(images, DeviceImages)
    x = torch.cat([b.x for b in images.plain(4)])
    std, mean = (torch.tensor(v)[:, None, None] for v in (dataset.std, dataset.mean))
    pixels = torch.from_numpy(dataset.test.pixels()).permute(0, 3, 1, 2)
    torch.testing.assert_close(x * std + mean, pixels / 255, rtol=0, atol=1e-6)


# Damage


@pytest.fixture
def made(data_root: Path, monkeypatch: Patch) -> Callable[[], ImageStore]:
    """Return a function that gets a store of six small images, as a training does."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)

    def contents() -> Contents:
        return Contents(iter(pixels), np.arange(6) % 3, ["a", "b", "\udcff"])

    def get() -> ImageStore:
        store = cached_store({"path": "images"}, contents)
        return cached_store({"path": "images"}, contents) if drop_broken([store]) else store

    return get


def content(store: ImageStore) -> list[Any]:
    arrays = (store.pixels, store.shapes, store.labels, store.sums, store.squares)
    return [store.digest, store.class_names, *(a.tolist() for a in arrays)]


def damaged(data: bytes, random: Random) -> bytes | None:
    """Return a file with a flipped bit, cut off or padded, or None for a missing one."""
    place = random.randrange(len(data))
    return random.choice(
        [bytes([*data[:place], data[place] ^ 1 << random.randrange(8), *data[place + 1 :]])] * 8
        + [data[:place], b"", data + b"\0", bytes(len(data)), None]
    )


def test_damage_never_changes_an_image(made: Callable[[], ImageStore], capsys: Output) -> None:
    """Thousands of flipped bits and cut files: the same images, or decoded again with one line."""
    random, first = Random(0), made()
    expected, files = content(first), {p: p.read_bytes() for p in first.path.iterdir()}
    assert {p.name for p in files} == {"pixels.bin", "index.npz", "meta.json"}
    for case in range(3000):
        path = random.choice(sorted(files))
        data = damaged(files[path], random)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        store = open_store(first.path)
        assert store is None or (store.is_whole() and content(store) == expected) == (
            data == files[path]
        )
        if case % 20:
            path.write_bytes(files[path])
            continue
        assert content(made()) == expected
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (data != files[path]) and all(str(first.path) in x for x in lines)
        assert {p: p.read_bytes() for p in first.path.iterdir()} == files
    assert len([*first.path.parent.iterdir()]) == 2, "the store and its lock"


def test_another_sources_store_is_not_taken(made: Callable[[], ImageStore]) -> None:
    expected, path = content(made()), made().path
    other = Contents(iter(np.zeros((6, 4, 5, 3), np.uint8)), np.arange(6) % 3, ["a", "b", "c"])
    wrong_one = cached_store({"path": "other"}, lambda: other).path
    os.rename(path, path.with_name("x"))
    os.rename(wrong_one, path)
    assert content(made()) == expected


def test_a_training_gets_what_was_decoded(tiny: Path, data_root: Path, capsys: Output) -> None:
    """A command that plans reads no pixel, so it cannot know."""
    expected = parquet(tiny).train.pixels()
    for path in data_root.glob(".cache/*/pixels.bin"):
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    options = DATASETS["parquet"].model_validate({"name": "parquet", "path": tiny})
    request = DataRequest(options, True, None, parquet(tiny).digest)
    np.testing.assert_array_equal(request.load().train.pixels(), expected)
    assert len(capsys.readouterr().err.splitlines()) == 2  # of the training and the test images


def test_a_broken_store_that_cannot_be_deleted_is_named(
    made: Callable[[], ImageStore], monkeypatch: Patch
) -> None:
    store = made()
    (store.path / "pixels.bin").write_bytes(bytes(len(store.pixels)))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(store.path))

    monkeypatch.setattr("os.rename", refuse)
    wrong(made, "dataset: ", str(store.path), "Permission denied")
