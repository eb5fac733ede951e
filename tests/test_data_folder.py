"""Folders of one's own images: what is read, and what can be wrong with them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import encoded, experiment, folder, part_digests, picture, write_birds, write_class
from helpers import wrong
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from harness.data import Augmentation, ResizedCrop, decode, load
from harness.data.sets.folder import FolderOptions

pytestmark = pytest.mark.usefixtures("data_root")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return write_birds(tmp_path / "birds")


def test_two_lines_of_yaml(birds: Path) -> None:
    options = experiment(name="folder", path=str(birds)).dataset
    dataset = load(options)
    assert dataset.name == options.label == "birds"
    assert dataset.class_names == ("crow", "gull", "wren")
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [54, 6, 15]
    assert dataset.augmentation == Augmentation(padding=4, flip=True)
    assert np.bincount(dataset.validation.labels).tolist() == [2, 2, 2]  # 10 % of train
    assert dataset.test.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    np.testing.assert_array_equal(dataset.test.pixels()[0], picture(220))
    np.testing.assert_array_equal(dataset.test.pixels()[-1], picture(24))


def test_without_a_test_folder_one_is_drawn(birds: Path) -> None:
    drawn = folder(birds / "train")
    assert drawn.name == "train" and drawn.test is not None and drawn.validation is not None
    assert np.bincount(drawn.test.labels).tolist() == [4, 4, 4]  # 20 %
    assert [len(drawn.train), len(drawn.validation)] == [43, 5]
    parts = [drawn.train, drawn.validation, drawn.test]
    index = np.concatenate([p.images.index for p in parts])
    assert sorted(index) == list(range(60))
    assert folder(birds / "train").digest == drawn.digest
    assert folder(birds / "train", split_seed=1).digest != drawn.digest
    six = folder(birds / "train", test_size=6, validation=9)
    assert [len(six.train), len(six.validation), len(six.test)] == [45, 9, 6]


@pytest.mark.parametrize(
    ("place", "fields", "frozen"),
    [
        (".", {}, "92247f5a9d33 72189c1a3df1 60016e9b7224"),
        (".", {"split_seed": 3, "validation": 9}, "8dc9d3fe8734 0e231fc9ff00 60016e9b7224"),
        # The test images are drawn, too.
        ("train", {}, "395f234172c6 a00a1b895fa7 2151f4e04d21"),
        ("train", {"split_seed": 3, "test_size": 6}, "d1767f4f9b97 24747fd1b25e fafc0796b488"),
    ],
)
def test_parts_are_frozen(birds: Path, place: str, fields: dict[str, Any], frozen: str) -> None:
    assert part_digests(folder(birds / place, **fields)) == frozen


def test_images_are_scaled_and_their_centre_is_kept(birds: Path) -> None:
    for file in (birds / "train" / "gull").iterdir():
        file.write_bytes(encoded(picture(7, height=50, width=81)))
    dataset = folder(birds, image_size=24, validation=3)
    image = TF.center_crop(TF.resize(Image.fromarray(picture(7, 50, 81)), [24]), [24])
    np.testing.assert_array_equal(
        dataset.train.pixels()[dataset.train.labels == 1][0], np.asarray(image)
    )
    assert dataset.augmentation == Augmentation(padding=3, flip=True)


def test_hidden_files_and_nested_folders(birds: Path) -> None:
    (birds / "train" / "gull" / ".DS_Store").write_bytes(b"?")
    (birds / "train" / "gull" / "Thumbs.db").write_bytes(b"?")
    (birds / "train" / ".cache").mkdir()
    write_class(birds / "train" / "gull" / ".ipynb_checkpoints", range(3))
    write_class(birds / "train" / "gull" / "more", range(300, 304))
    assert len(folder(birds).train) == 58  # 64 less 6


def test_the_other_fields(birds: Path) -> None:
    plain = folder(birds, augmentation="none", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), label="x")
    assert (plain.name, plain.mean, plain.std) == ("x", (0.5,) * 3, (0.2,) * 3)
    assert plain.augmentation == Augmentation(padding=0, flip=False)
    crops = folder(birds, augmentation="resized-crop", image_size=28)
    assert crops.augmentation == ResizedCrop(28, flip=True)
    assert set(crops.train.images.shapes.ravel().tolist()) == {32}


GREY = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
COLOUR = picture(1)
ALPHA = np.full((32, 32, 1), 100, np.uint8)
SIXTEEN = Image.fromarray(GREY.astype(np.uint16) * 257)


def _palette() -> Image.Image:
    return Image.fromarray(COLOUR).quantize(16)


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (Image.fromarray(GREY), "png", {}, np.repeat(GREY[..., None], 3, -1)),
        (SIXTEEN, "png", {}, np.repeat(GREY[..., None], 3, -1)),
        (SIXTEEN, "tiff", {}, np.repeat(GREY[..., None], 3, -1)),
        (Image.fromarray(GREY > 99), "png", {}, np.repeat((GREY > 99)[..., None] * 255, 3, -1)),
        (_palette(), "png", {}, np.asarray(_palette().convert("RGB"))),
        (_palette(), "gif", {}, np.asarray(_palette().convert("RGB"))),
        (_palette(), "png", {"transparency": b"\x00\x80"}, np.asarray(_palette().convert("RGB"))),
        (Image.fromarray(np.concatenate([COLOUR, ALPHA], -1)), "png", {}, COLOUR),
        (
            Image.fromarray(np.concatenate([GREY[..., None], ALPHA], -1)),
            "png",
            {},
            np.repeat(GREY[..., None], 3, -1),
        ),
        (Image.fromarray(COLOUR), "bmp", {}, COLOUR),
        (Image.fromarray(COLOUR), "webp", {"lossless": True}, COLOUR),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_every_kind_becomes_rgb(
    image: Image.Image, kind: str, options: dict[str, Any], expected: np.ndarray
) -> None:
    item = decode.Encoded(encoded(image, kind, **options), "it")
    np.testing.assert_array_equal(decode.decode(item, decode.ImageFormat(32, True)), expected)


def test_cmyk_becomes_rgb() -> None:
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # red
    item = decode.Encoded(encoded(flat, "jpeg", quality=95), "it")
    got = decode.decode(item, decode.ImageFormat(32, True)).reshape(-1, 3).mean(0)
    assert got[0] > 200 and got[1] < 60 and got[2] < 60


def test_an_unreadable_file_is_named(birds: Path) -> None:
    file = birds / "train" / "gull" / "105.png"
    whole = file.read_bytes()
    for content, reason in (
        (b"", "not an image"),
        (b"<html>not found</html>", "not an image"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:60] + b"\0" * 40 + whole[100:], "cannot be read"),
    ):
        file.write_bytes(content)
        wrong(lambda: folder(birds), f"dataset: {file}: ", reason)
    file.write_bytes(encoded(Image.fromarray(np.ones((32, 32), np.float32)), "tiff"))
    wrong(lambda: folder(birds), f"dataset: {file}: ", "mode F")
    file.write_bytes(encoded(picture(0, height=2, width=300)))
    wrong(lambda: folder(birds), f"dataset: {file}: 300 x 2")
    file.unlink()
    (birds / "train" / "gull" / "notes.txt").write_text("no image")
    wrong(lambda: folder(birds), "gull/notes.txt: ")
    assert not list((birds.parent / "data" / ".cache").glob("*/meta.json"))  # nothing half made


def test_wrong_folders(birds: Path, tmp_path: Path) -> None:
    def move(source: str, target: str) -> None:
        os.rename(birds / source, birds / target)

    wrong(lambda: folder(tmp_path / "no"), "dataset.path: ", str(tmp_path / "no"))
    (birds / "train" / "owl").mkdir()
    wrong(lambda: folder(birds), "dataset: ", "'owl' has no training")
    write_class(birds / "test" / "owl", range(2))
    wrong(lambda: folder(birds), "dataset: ", "'owl' has no training")
    (birds / "train" / "owl").rmdir()
    wrong(lambda: folder(birds), "dataset: ", "'owl' has test images")
    move("test/owl", "train/owl")
    wrong(lambda: folder(birds), "dataset: ", "'owl' has no test")
    move("test", "val")
    wrong(lambda: folder(birds), "dataset.path: ", "test/")
    move("train/owl", "owl")
    move("train", "owl/train")
    wrong(lambda: folder(birds / "owl" / "train" / "gull"), "dataset: ", "gull: no folders")
    (tmp_path / "one" / "only").mkdir(parents=True)
    wrong(lambda: folder(tmp_path / "one"), "dataset: ", "one: no images")
    write_class(tmp_path / "two" / "only", range(9))
    wrong(lambda: folder(tmp_path / "two"), "dataset: ", "two: one class")


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_class(tmp_path / "few" / "a", range(9))
    write_class(tmp_path / "few" / "b", range(9, 11))
    wrong(lambda: folder(tmp_path / "few"), "dataset: ", "'b' has 2 images")
    write_class(tmp_path / "few" / "b" / "more", range(11, 12))
    wrong(lambda: folder(tmp_path / "few", test_size=10), "dataset.test_size: ", "use")
    wrong(lambda: folder(tmp_path / "few", test_size=0.4, validation=0.01), "dataset.validation: ")


def test_without_test_images_their_files_stay_closed(birds: Path) -> None:
    whole = folder(birds)
    for file in birds.glob("test/*/*.png"):
        file.write_bytes(b"broken")
    blind = load(FolderOptions(path=birds), with_test=False)
    assert blind.test is None
    np.testing.assert_array_equal(blind.train.pixels(), whole.train.pixels())
    drawn = load(FolderOptions(path=birds / "train"), with_test=False)
    assert drawn.test is None
    np.testing.assert_array_equal(drawn.train.labels, folder(birds / "train").train.labels)


def test_a_new_class_renumbers_the_others(birds: Path) -> None:
    assert folder(birds).class_names[0] == "crow"
    for part in ("train", "test"):
        write_class(birds / part / "auk", range(400, 410))
    dataset = folder(birds)
    assert dataset.class_names == ("auk", "crow", "gull", "wren") and dataset.test is not None
    assert dataset.test.labels.tolist() == [0] * 10 + [1] * 5 + [2] * 5 + [3] * 5
