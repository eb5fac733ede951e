"""One's own images: folders and parquet files, what can be wrong with them, and their cache."""

import io
import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from harness.data import (
    DATASETS,
    Augmentation,
    Dataset,
    DigitsOptions,
    ResizedCrop,
    cache,
    decode,
    load,
    normalisation,
)
from harness.data.batches import DeviceImages, on_device
from harness.data.options import CubOptions, FolderOptions, ParquetOptions
from harness.data.packed import PackedImages
from harness.data.views import join_validation
from harness.errors import UserError
from harness.experiment_file import parse
from harness.spec import Experiment

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "data"


def picture(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Soft colours, so that JPEG and resizing change little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def write_class(folder: Path, seeds: range, **size: int) -> None:
    folder.mkdir(parents=True)
    for seed in seeds:
        (folder / f"{seed:03}.png").write_bytes(encoded(picture(seed, **size)))


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """birds/train/{crow,gull,wren}: 20 images each; birds/test: 5 each."""
    for k, name in enumerate(("wren", "gull", "crow")):
        write_class(tmp_path / "birds" / "train" / name, range(100 * k, 100 * k + 20))
        write_class(tmp_path / "birds" / "test" / name, range(100 * k + 20, 100 * k + 25))
    return tmp_path / "birds"


def folder(path: Path, **fields: Any) -> Dataset:
    return load(FolderOptions(path=path, **fields))


# Folders.


def experiment(**dataset: Any) -> Experiment:
    network = {"network": "wide_resnet", "depth": 10, "width": 1}
    return parse({"name": "own", "dataset": dataset, "teacher": network, "students": [network]})


def test_two_lines_of_yaml(birds: Path) -> None:
    options = experiment(name="folder", path=str(birds)).dataset
    dataset = load(options)
    assert dataset.name == options.label == "birds"
    assert dataset.class_names == ("crow", "gull", "wren")
    assert dataset.validation is not None and dataset.test is not None
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
    index = np.concatenate([p.images.index for p in parts])  # type: ignore[union-attr]
    assert sorted(index) == list(range(60))
    assert folder(birds / "train").digest == drawn.digest
    assert folder(birds / "train", split_seed=1).digest != drawn.digest
    six = folder(birds / "train", test_size=6, validation=9)
    assert six.test is not None and six.validation is not None
    assert [len(six.train), len(six.validation), len(six.test)] == [45, 9, 6]


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
    assert set(crops.train.images.shapes.ravel().tolist()) == {32}  # type: ignore[union-attr]


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
@pytest.mark.filterwarnings("error")
def test_every_kind_becomes_rgb(
    image: Image.Image, kind: str, options: dict[str, Any], expected: np.ndarray
) -> None:
    item = decode.Encoded(encoded(image, kind, **options), "it")
    np.testing.assert_array_equal(decode.decode(item, decode.Form(32, True)), expected)


def test_cmyk_becomes_rgb() -> None:
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # red
    item = decode.Encoded(encoded(flat, "jpeg", quality=95), "it")
    got = decode.decode(item, decode.Form(32, True)).reshape(-1, 3).mean(0)
    assert got[0] > 200 and got[1] < 60 and got[2] < 60


def wrong(call: Callable[[], object], *parts: str) -> None:
    """One line with these parts; the first is the field, the last the remedy."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


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
        wrong(lambda: folder(birds), f"dataset: {file}: ", reason, "replace or remove it")
    file.write_bytes(encoded(Image.fromarray(np.ones((32, 32), np.float32)), "tiff"))
    wrong(lambda: folder(birds), f"dataset: {file}: ", "mode F", "save it with 8 bits")
    file.write_bytes(encoded(picture(0, height=2, width=300)))
    wrong(lambda: folder(birds), f"dataset: {file}: 300 x 2 pixels", "crop or remove it")
    file.unlink()
    (birds / "train" / "gull" / "notes.txt").write_text("no image")
    wrong(lambda: folder(birds), "gull/notes.txt: ", "replace or remove it")
    assert not list((birds.parent / "data" / ".cache").glob("*/meta.json"))  # nothing half made


def test_wrong_folders(birds: Path, tmp_path: Path) -> None:
    def move(source: str, target: str) -> None:
        os.rename(birds / source, birds / target)

    wrong(lambda: folder(tmp_path / "no"), "dataset.path: no folder", "correct the path")
    (birds / "train" / "owl").mkdir()
    wrong(lambda: folder(birds), "class 'owl' has no training images", "or remove the class")
    write_class(birds / "test" / "owl", range(2))
    wrong(lambda: folder(birds), "class 'owl' has no training images", "add some")
    (birds / "train" / "owl").rmdir()
    wrong(lambda: folder(birds), "class 'owl' has test images, but no training", "add some")
    move("test/owl", "train/owl")
    wrong(lambda: folder(birds), "class 'owl' has no test images", "add some, or remove the class")
    move("test", "val")
    wrong(lambda: folder(birds), "has no folder test/ beside the other", "add it")
    move("train/owl", "owl")
    move("train", "owl/train")
    wrong(lambda: folder(birds / "owl" / "train" / "gull"), "no folders in it", "make one for each")
    (tmp_path / "one" / "only").mkdir(parents=True)
    wrong(lambda: folder(tmp_path / "one"), "one: no images", "add some")
    write_class(tmp_path / "two" / "only", range(9))
    wrong(lambda: folder(tmp_path / "two"), "one class only")


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_class(tmp_path / "few" / "a", range(9))
    write_class(tmp_path / "few" / "b", range(9, 11))
    wrong(lambda: folder(tmp_path / "few", test_size=10), "dataset.test_size: ", "use")
    wrong(lambda: folder(tmp_path / "few", test_size=0.4, validation=0.01), "dataset.validation: ")


# Fields.


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"path": "x", "validation": 0}, "dataset.validation: expected a number of images"),
        ({"path": "x", "validation": 1.5}, "dataset.validation: expected a number of images"),
        ({"path": "x", "validation": True}, "dataset.validation: expected a number of images"),
        ({"path": "x", "test_size": "many"}, "dataset.test_size: expected a number of images"),
        ({"path": "x", "mean": [0.5, 0.5, 0.5]}, "dataset: mean and std belong together"),
        ({"path": "x", "std": [0, 1, 1], "mean": [0, 0, 0]}, "dataset.std.0: "),
        ({"path": "x", "augmentation": "crops"}, "dataset.augmentation: "),
        ({"path": "x", "augmentation": "none", "padding": 4}, "dataset: padding belongs to aug"),
        ({"path": "x", "colour": 1}, "dataset.colour: unknown key"),
        ({"path": "x", "label": "a|b"}, "dataset.label: "),
        ({}, "dataset.path: missing"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], problem: str) -> None:
    wrong(lambda: experiment(name="folder", **fields), problem)


def test_parquet_needs_one_place() -> None:
    for fields in ({}, {"path": "x", "train": "y"}):
        wrong(lambda f=fields: experiment(name="parquet", **f), "dataset: give either path")  # type: ignore[misc]


def test_options_survive_json_and_are_complete() -> None:
    for name, fields in {
        "folder": {"path": "/data/birds", "augmentation": "resized-crop"},
        "parquet": {"train": "/data/tiny/train.parquet", "test": ["/data/tiny/a.parquet"]},
        "cub200": {"path": "/data/cub", "label": "cub10"},
        "cifar10": {},
    }.items():
        options = DATASETS[name][0].model_validate({"name": name, **fields})
        again = DATASETS[name][0].model_validate(json.loads(options.model_dump_json()))
        assert again == options


def test_default_labels() -> None:
    assert FolderOptions(path="/data/my birds/").label == "my-birds"
    assert ParquetOptions(path="/data/tiny").label == "tiny"
    assert ParquetOptions(path="/data/tiny.parquet").label == "tiny"
    assert ParquetOptions(train="/data/tiny/train.parquet").label == "tiny"
    assert ParquetOptions(path="/data/tiny", label="other").label == "other"


def test_identity_says_what_not_where() -> None:
    one = FolderOptions(path="/data/a")
    assert one.identity() == FolderOptions(path="/data/b", label="b").identity()
    assert one.identity() != FolderOptions(path="/data/a", image_size=64).identity()
    assert not {"path", "label"} & one.identity().keys()
    one, two = ParquetOptions(path="/a"), ParquetOptions(train="/b", test="/c", image_column="x")
    assert one.identity() == two.identity()
    assert CubOptions(path="/a").identity() == CubOptions().identity()


def test_identity_of_digits_is_all_of_its_options() -> None:
    options = DigitsOptions(validation=100)
    assert options.identity() == options.model_dump(mode="json")
    assert options.identity() == {
        "name": "digits",
        "validation": 100,
        "split_seed": 0,
        "test": 500,
    }


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


# Parquet.


def write_parquet(path: Path, images: list[Any], labels: Any, **names: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {names.get("image", "img"): images, names.get("label", "fine_label"): labels}
    table = pa.table(columns)
    if "classes" in names:
        features = {"fine_label": {"names": names["classes"], "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, path, row_group_size=7)
    return path


def structs(seeds: range, kind: str = "png") -> list[dict[str, Any]]:
    return [{"bytes": encoded(picture(s), kind), "path": f"{s}.{kind}"} for s in seeds]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """tiny/: 3 classes; 30 training images in two files, 6 test images."""
    labels = np.arange(30) % 3
    write_parquet(tmp_path / "tiny" / "train-0-of-2.parquet", structs(range(20)), labels[:20])
    write_parquet(tmp_path / "tiny" / "train-1-of-2.parquet", structs(range(20, 30)), labels[20:])
    write_parquet(tmp_path / "tiny" / "test.parquet", structs(range(30, 36)), labels[:6])
    return tmp_path / "tiny"


def parquet(path: Path | None = None, **fields: Any) -> Dataset:
    return load(ParquetOptions(path=path, **fields))


def test_parquet_in_two_lines_of_yaml(tiny: Path) -> None:
    dataset = load(experiment(name="parquet", path=str(tiny)).dataset)
    assert dataset.name == "tiny" and dataset.class_names == ("0", "1", "2")
    assert dataset.validation is not None and dataset.test is not None
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 6]
    np.testing.assert_array_equal(dataset.test.pixels(), [picture(s) for s in range(30, 36)])
    np.testing.assert_array_equal(dataset.test.labels, np.arange(6) % 3)
    both = join_validation(dataset).train.pixels()
    assert sorted(i.tobytes() for i in both) == sorted(picture(s).tobytes() for s in range(30))


def test_parquet_files_by_name(tiny: Path) -> None:
    train, test = sorted(tiny.glob("train*")), tiny / "test.parquet"
    whole = parquet(tiny)
    assert parquet(train=train, test=test).digest == whole.digest
    assert parquet(tiny, test=test).digest == whole.digest
    drawn = parquet(train[0], validation=4)
    assert drawn.test is not None and len(drawn.test) == 4 and len(drawn.train) == 12
    os.rename(test, tiny / "valid.parquet")
    wrong(
        lambda: parquet(tiny), "dataset.path: no test*.parquet in", "valid.parquet", "dataset.test"
    )
    assert parquet(tiny, test=tiny / "valid.parquet").digest == whole.digest
    for k, file in enumerate(train):
        os.rename(file, tiny / f"part{k}.parquet")
    wrong(lambda: parquet(tiny), "dataset.path: no train*.parquet", "dataset.train")
    wrong(lambda: parquet(tiny / "no"), "dataset.path: no folder or file", "correct the path")
    wrong(lambda: parquet(train=tiny / "no.parquet"), "no.parquet (No such file", "restore it")


def test_without_test_images_their_parquet_stays_closed(tiny: Path) -> None:
    train = parquet(tiny).train
    (tiny / "test.parquet").write_bytes(b"broken")
    blind = load(ParquetOptions(path=tiny), with_test=False)
    assert blind.test is None
    np.testing.assert_array_equal(blind.train.pixels(), train.pixels())


def test_columns_and_class_names(tmp_path: Path) -> None:
    labels = np.arange(12) % 2
    raw = [s["bytes"] for s in structs(range(12))]
    plain = write_parquet(tmp_path / "a.parquet", raw, labels, image="image", label="label")
    digest = parquet(plain, validation=2).digest
    odd = write_parquet(tmp_path / "b.parquet", raw, labels, image="photo", label="kind")
    wrong(
        lambda: parquet(odd), "dataset.image_column: no column img or image", "it has: photo, kind"
    )
    wrong(lambda: parquet(odd, image_column="foto"), "no column 'foto'", "it has: photo, kind")
    wrong(lambda: parquet(odd, image_column="photo"), "dataset.label_column: no column fine_label")
    columns = {"image_column": "photo", "label_column": "kind"}
    assert parquet(odd, validation=2, **columns).digest == digest
    named = write_parquet(tmp_path / "c.parquet", raw, labels, classes=["owl", "wren"])
    dataset = parquet(named, validation=2)
    assert dataset.class_names == ("owl", "wren") and dataset.digest == digest


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([0, 1, -1, 1, 0, 1], "row 2: negative label -1; number the classes from 0"),
        ([0, 1, 2, 1, 0, 1], "row 2: label 2 is out of range; there are 2 classes, 0 to 1"),
        ([0, 1, None, 1, 0, 1], "row 2: no label; add it or remove the row"),
        (list("ababab"), "dataset.label_column: fine_label of"),
        ([0.0, 1.0] * 3, "is double, not whole numbers"),
        ([1] * 6, "class 'owl' has no training images; add some"),
    ],
)
def test_wrong_labels(tmp_path: Path, labels: list[Any], problem: str) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, structs(range(6)), labels, classes=["owl", "wren"])
    wrong(lambda: parquet(path), str(path), problem)


@pytest.mark.parametrize(
    ("train", "test", "problem"),
    [
        ([0, 1] * 3, [0, 1, 2], "class '2' has test images, but no training images; add some"),
        ([0, 1, 2] * 2, [0, 2, 0], "class '1' has no test images; add some, or remove"),
        ([0, 2] * 3, [0, 2, 0], "class '1' has no training images; add some, or remove"),
        ([0, 10**12] * 3, [0, 0, 0], "class '1' has no training images"),
        ([0, 1] * 3, [0, 1, -7], "test.parquet, row 2: negative label -7"),
    ],
)
def test_train_and_test_must_fit(
    tmp_path: Path, train: list[int], test: list[int], problem: str
) -> None:
    write_parquet(tmp_path / "x" / "train.parquet", structs(range(6)), train)
    write_parquet(tmp_path / "x" / "test.parquet", structs(range(6, 9)), test)
    wrong(lambda: parquet(tmp_path / "x"), "dataset: ", problem)


def test_wrong_parquet_images(tmp_path: Path) -> None:
    good, path, labels = structs(range(6)), tmp_path / "x.parquet", [0, 1] * 3
    write_parquet(path, [*good[:4], {"bytes": b"?", "path": ""}, good[5]], labels)
    wrong(lambda: parquet(path), f"{path}, row 4: cannot be read", "replace or remove it")
    write_parquet(path, [*good[:4], {"bytes": None, "path": "4.png"}, good[5]], labels)
    wrong(lambda: parquet(path), f"{path}, row 4: no image", "add it or remove the row")
    write_parquet(path, ["a.png"] * 6, labels)
    wrong(lambda: parquet(path), "dataset.image_column: img of", "is string, not encoded images")
    path.write_bytes(b"PAR1 no")
    wrong(lambda: parquet(path), f"{path}: not a parquet file", "fetch it again")
    write_parquet(path, good, labels)
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\0" * 300 + content[500:])
    wrong(lambda: parquet(path), str(path))


# The cache of decoded images.


def no_decoding(*_: object) -> None:
    raise AssertionError("decoded again")


def test_decoded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = parquet(tiny)
    monkeypatch.setattr(decode, "rgb", no_decoding)
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
    left_over = pixels.parent.with_name(f".{pixels.parent.name}.tmp")  # of a killed process
    left_over.mkdir()
    (pixels.parent / "index.npz").unlink()
    assert parquet(tiny).digest == first
    assert not left_over.exists()


def test_many_at_once_decode_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, digests, real = [], [], decode.rgb

    def counting(item: decode.Encoded) -> Image.Image:
        decoded.append(item.name)
        return real(item)

    monkeypatch.setattr(decode, "rgb", counting)
    threads = [
        threading.Thread(target=lambda: digests.append(parquet(tiny).digest)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 36 and len(set(digests)) == 1 and len(digests) == 4


def test_unwritable_data_root(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_DATA_ROOT", str(tmp_path / "file" / "data"))
    digest = parquet(tiny).digest  # among the temporary files
    monkeypatch.setattr(decode, "rgb", no_decoding)
    assert parquet(tiny).digest == digest
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    wrong(lambda: parquet(tiny), "dataset: cannot keep decoded images in", "--data-root")


def test_no_space(tiny: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write_files", full)
    wrong(lambda: parquet(tiny), "dataset: ", "No space left on device", "free some space")
    assert not [p for p in (data_root / ".cache").iterdir() if p.is_dir()]


def test_a_long_decode_is_announced_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    some = train.take(np.array([5, 2, 2]))
    np.testing.assert_array_equal(some.pixels(), train.pixels()[[5, 2, 2]])
    np.testing.assert_array_equal(some.labels, train.labels[[5, 2, 2]])
    assert some.images.digest != images.digest  # type: ignore[union-attr]
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
    assert dataset.test is not None
    images = on_device(dataset, dataset.test, CPU)
    assert isinstance(images, DeviceImages)
    x = torch.cat([b.x for b in images.plain(4)])
    std, mean = (torch.tensor(v)[:, None, None] for v in (dataset.std, dataset.mean))
    pixels = torch.from_numpy(dataset.test.pixels()).permute(0, 3, 1, 2)
    torch.testing.assert_close(x * std + mean, pixels / 255, rtol=0, atol=1e-6)
