"""Folders of one's own images: what is read, and what can be wrong with them."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import encoded, experiment, folder, part_digests, picture, write_birds, write_class
from helpers import Output, wrong
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from harness.data import Augmentation, ResizedCrop, decode, load
from harness.data.sets.folder import FolderOptions
from harness.data.views import join_validation
from harness.experiment.file import parse
from harness.run.inspect import print_sizes
from harness.run.session import print_remarks

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


def write_validation(birds: Path, name: str = "val") -> Path:
    for k, label in enumerate(("wren", "gull", "crow")):
        write_class(birds / name / label, range(500 + 10 * k, 504 + 10 * k))
    return birds


def test_validation_images_of_their_own(birds: Path) -> None:
    """Those of val/ select; all of train/ trains, and both are joined where a protocol does so."""
    plain = folder(birds)
    dataset = folder(write_validation(birds), validation="folder")
    assert [len(p) for p in dataset.parts.values()] == [60, 12, 15]
    np.testing.assert_array_equal(dataset.validation.images[0], picture(520))  # a crow
    assert np.bincount(dataset.validation.labels).tolist() == [4, 4, 4]
    assert dataset.left_out == () and dataset.digest != plain.digest
    assert folder(birds).digest == plain.digest, "unless asked for, val/ changes nothing"
    joined = join_validation(dataset).train
    assert len(joined) == 72 and joined.labels[60:].tolist() == dataset.validation.labels.tolist()
    assert dataset.mean == join_validation(dataset).mean


def test_nothing_is_tested_on_validation_images_unasked(birds: Path) -> None:
    shutil.rmtree(write_validation(birds) / "test")
    for fields in ({}, {"validation": "folder"}, {"test_size": 6}):
        line = wrong(lambda fields=fields: folder(birds, **fields), "no test images; give ")
        assert "dataset.test_size: 0.2" in line and "link test/ to val/" in line
    dataset = folder(birds, validation="folder", test_size=6)
    assert [len(p) for p in dataset.parts.values()] == [54, 12, 6]
    index = np.concatenate([p.images.index for p in dataset.parts.values()])
    assert sorted(index) == list(range(72))
    (birds / "test").symlink_to("val")
    assert [len(p) for p in folder(birds).parts.values()] == [54, 6, 12], "now it is said"
    wrong(lambda: folder(birds, validation="folder"), "is read for", "remove the link")


def test_what_validation_images_need(birds: Path) -> None:
    wrong(lambda: folder(birds, validation="folder"), "dataset.validation: ", "no folder val/")
    wrong(lambda: folder(birds / "train", validation="folder"), "dataset.validation: ")
    wrong(lambda: experiment(name="folder", path=str(birds), validation="val"), "or 'folder'")
    shutil.rmtree(write_validation(birds) / "val" / "gull")
    wrong(lambda: folder(birds, validation="folder"), "'gull' has no validation images")
    write_class(birds / "val" / "owl", range(3))
    wrong(lambda: folder(birds, validation="folder"), "'owl' has validation images, but no")


def test_the_plan_says_which_sizes_networks_get(tmp_path: Path, capsys: Output) -> None:
    small = experiment(
        name="folder", path=str(write_birds(tmp_path / "small", width=16, height=24))
    )
    print_sizes(small.dataset, load(small.dataset))
    line = capsys.readouterr().out
    assert line.startswith("files: 16x24 pixels (60 looked at); networks get 32x32: all of them")
    assert "4 times that of dataset.image_size: 16" in line
    same = experiment(name="folder", path=str(tmp_path / "small"), image_size=16).dataset
    print_sizes(same, load(same))
    assert capsys.readouterr().out == "files: 16x24 pixels (60 looked at); networks get 16x16\n"
    print_sizes(parse(NAMED).dataset, load(parse(NAMED).dataset))
    assert capsys.readouterr().out == "", "the digits have one size"


NETWORK = {"network": "wide_resnet", "depth": 10, "width": 1}
NAMED = {"name": "x", "dataset": "digits", "teacher": NETWORK, "students": [NETWORK]}


def test_networks_are_plain_for_ones_own_images(birds: Path, capsys: Output) -> None:
    """The paper's dropout and batch norm are for its data sets, and for those who write them."""

    def options(raw: dict[str, Any]) -> list[tuple[float, float]]:
        networks = (parse(raw).teacher, *parse(raw).students)
        return [(n.dropout, n.final_bn_momentum) for n in networks]

    assert options(NAMED) == [(0.3, 0.9)] * 2
    own = NAMED | {"dataset": {"name": "folder", "path": str(birds)}}
    assert options(own) == [(0.0, 0.1)] * 2
    shared = {"network": {"network": "wide_resnet", "dropout": 0.2}}
    bare = {"depth": 10, "width": 1}
    assert options(own | shared | {"teacher": bare}) == [(0.2, 0.1), (0.2, 0.1)]
    assert options(own | {"teacher": NETWORK | {"dropout": 0.3}})[0] == (0.3, 0.1)
    assert parse(parse(own).model_dump(mode="json")) == parse(own)
    print_remarks(parse(own), load(parse(own).dataset))
    assert capsys.readouterr().out.count("dropout 0.0 and final_bn_momentum 0.1") == 1
    print_remarks(parse(NAMED), load(parse(NAMED).dataset))
    assert "dropout" not in capsys.readouterr().out
