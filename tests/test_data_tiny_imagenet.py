"""Tiny ImageNet: a small archive of the official layout, the hub's parquet, and what is wrong."""

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_files import encoded, experiment, picture, write_parquet
from helpers import Patch, wrong

from harness.data import Augmentation, Dataset, load
from harness.data.sets import tiny_imagenet
from harness.data.sets.tiny_imagenet import ARCHIVE, CLASSES, PER_CLASS, TinyImageNetOptions

pytestmark = pytest.mark.usefixtures("data_root")
FOUR = CLASSES[:4]
FILES = {"train": 6, "test": 2}  # of each class


def jpeg(split: str, label: int, i: int) -> bytes:
    seed = 1000 * label + 100 * (split == "test") + i
    return encoded(picture(seed, 64, 64), "jpeg", quality=95)


def write_archive(root: Path) -> Path:
    """Write the official layout, with FILES images of each of the first four classes."""
    folder = root / ARCHIVE.folder
    lines = []
    for label, name in enumerate(FOUR):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        for i in range(FILES["train"]):
            (images / f"{name}_{i}.JPEG").write_bytes(jpeg("train", label, i))
        for i in range(FILES["test"]):
            file = f"val_{4 * i + label}.JPEG"
            (folder / "val" / "images").mkdir(parents=True, exist_ok=True)
            (folder / "val" / "images" / file).write_bytes(jpeg("test", label, i))
            lines.append(f"{file}\t{name}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines[::-1]))
    (folder / "wnids.txt").write_text("\n".join(FOUR[::-1]))
    return folder


def write_hub(folder: Path, names: tuple[str, ...] | None) -> Path:
    """Write the hub's parquet files, whose classes may have other numbers."""
    order = names or FOUR
    for part, split in {"data/train-00000-of-00001-1a2b": "train", "data/valid-0": "test"}.items():
        rows = [(n, i) for i in range(FILES[split]) for n in order]
        images = [{"bytes": jpeg(split, FOUR.index(n), i), "path": None} for n, i in rows]
        labels = [order.index(n) for n, _ in rows]
        columns = {"classes": list(names)} if names else {}
        write_parquet(folder / f"{part}.parquet", images, labels, **columns)
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: Patch) -> None:
    for split, n in FILES.items():
        monkeypatch.setitem(PER_CLASS, split, n)


def tiny(with_test: bool = True, **fields: object) -> Dataset:
    fields = {"classes": list(FOUR), "validation": 4} | fields
    return load(TinyImageNetOptions.model_validate(fields), with_test)


def sorted_images(dataset: Dataset) -> list[tuple[int, bytes]]:
    parts = [p for p in (dataset.train, dataset.validation, dataset.test) if p is not None]
    return sorted(
        (int(label), image.tobytes())
        for part in parts
        for label, image in zip(part.labels, part.pixels(), strict=True)
    )


def test_the_classes() -> None:
    assert len(set(CLASSES)) == 200 and list(CLASSES) == sorted(CLASSES)


def test_the_official_layout(tmp_path: Path) -> None:
    write_archive(tmp_path)
    dataset = tiny(path=tmp_path)
    assert dataset.name == "tiny-imagenet" and dataset.class_names == FOUR
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [20, 4, 8]
    assert dataset.augmentation == Augmentation(padding=8, flip=True)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert dataset.test.pixels().shape[1:] == (64, 64, 3)
    assert tiny(path=tmp_path / ARCHIVE.folder).digest == dataset.digest
    assert tiny(with_test=False, path=tmp_path).test is None


@pytest.mark.parametrize("size", [32, 16])
def test_smaller_images_are_means_of_pixels(tmp_path: Path, size: int) -> None:
    write_archive(tmp_path)
    full, small = (tiny(path=tmp_path, image_size=s).test.pixels() for s in (64, size))
    k = 64 // size
    means = full.reshape(len(full), size, k, size, k, 3).mean((2, 4))
    assert np.abs(small - means).max() <= 1  # Pillow rounds rows, then columns
    assert tiny(path=tmp_path, image_size=size).augmentation == Augmentation(size // 8, flip=True)


@pytest.mark.parametrize("names", [FOUR, FOUR[::-1]], ids=["in order", "other numbers"])
def test_the_hubs_parquet_is_the_same_data(
    tmp_path: Path, data_root: Path, names: tuple[str, ...]
) -> None:
    write_archive(tmp_path / "official")
    write_hub(tmp_path / "hub", names)
    official, hub = (tiny(path=tmp_path / place) for place in ("official", "hub"))
    assert sorted_images(official) == sorted_images(hub)
    shutil.copytree(tmp_path / "hub", data_root / "tiny_imagenet")
    assert tiny().digest == hub.digest


def test_files_that_name_their_classes_beside_them(tmp_path: Path) -> None:
    """Smaller copies, or some classes of them; they need a label of their own."""
    folder = write_hub(tmp_path, None) / "data"
    wrong(lambda: tiny(path=folder), "do not name their classes")
    (folder / "classes.txt").write_text("\n".join(f"{name}\twords" for name in FOUR))
    wrong(lambda: tiny(path=folder), "dataset.label")
    dataset = tiny(path=folder, label="copy")
    assert dataset.class_names == FOUR and dataset.name == "copy"
    (folder / "classes.txt").write_bytes(bytes([255]))
    wrong(lambda: tiny(path=folder, label="copy"), "classes.txt")


@pytest.mark.parametrize("place", ["official", "hub"])
def test_some_of_the_classes(tmp_path: Path, place: str) -> None:
    write_archive(tmp_path / "official")
    write_hub(tmp_path / "hub", FOUR[::-1])
    some = [FOUR[3], FOUR[1]]
    dataset, everything = (tiny(path=tmp_path / place, classes=c) for c in (some, list(FOUR)))
    assert dataset.class_names == (FOUR[1], FOUR[3])
    odd = [(label // 2, image) for label, image in sorted_images(everything) if label % 2]
    assert sorted_images(dataset) == odd
    assert dataset.digest != everything.digest


def test_ways_to_choose_classes(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text(f"{FOUR[2]}\n\n{FOUR[0]} goldfish\n")
    options = {
        "2": TinyImageNetOptions(classes=2),
        "second": TinyImageNetOptions(classes="every second"),
        "list": TinyImageNetOptions(classes=[FOUR[1], FOUR[0]]),
        "file": TinyImageNetOptions(classes=str(file)),
        "all": TinyImageNetOptions(),
    }
    assert options["2"].classes == options["list"].classes == FOUR[:2]
    assert options["file"].classes == (FOUR[0], FOUR[2])
    assert options["second"].classes == CLASSES[::2] and options["all"].classes == CLASSES
    identities = {name: o.identity()["classes"] for name, o in options.items()}
    assert identities["2"] == identities["list"]
    assert len(set(identities.values())) == 4  # each choice has a digest of its own


def test_a_file_of_classes_lies_beside_the_experiment(tmp_path: Path) -> None:
    from harness.experiment.file import read

    (tmp_path / "some.txt").write_text("\n".join(FOUR))
    (tmp_path / "own.yaml").write_text(
        "name: own\ndataset: {name: tiny_imagenet, classes: some.txt}\n"
        "teacher: {network: wide_resnet, depth: 10, width: 1}\n"
        "students: [{network: wide_resnet, depth: 10, width: 1}]\n"
    )
    assert read(tmp_path / "own.yaml").dataset.classes == FOUR  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"classes": 1}, "dataset.classes"),
        ({"classes": 201}, "dataset.classes"),
        ({"classes": True}, "dataset.classes"),
        ({"classes": "every third"}, "dataset.classes"),
        ({"classes": "~nobody-of-this-name/some.txt"}, "dataset.classes"),
        ({"classes": ["n01443537"]}, "dataset.classes"),
        ({"classes": ["n01443537", "n00000000"]}, "n00000000"),
        ({"classes": ["n01443537", "n01443537"]}, "twice"),
        ({"image_size": 24}, "dataset.image_size"),
    ],
)
def test_wrong_fields(fields: dict[str, object], text: str) -> None:
    wrong(lambda: experiment(name="tiny_imagenet", **fields), text)


def test_a_partial_archive(tmp_path: Path) -> None:
    folder = write_archive(tmp_path)
    table = folder / "val" / "val_annotations.txt"
    lines = table.read_text()
    wrong(lambda: tiny(path=tmp_path, classes=5), f"class {CLASSES[4]}")
    table.write_text(lines.replace(FOUR[2], "n00000000", 1))
    wrong(lambda: tiny(path=tmp_path), "line ")
    table.write_text(lines.split("\n", 1)[1])
    wrong(lambda: tiny(path=tmp_path), f"class {FOUR[3]}")
    table.write_text(lines)
    image = next((folder / "train" / FOUR[1] / "images").iterdir())
    image.write_bytes(image.read_bytes()[:100])
    wrong(lambda: tiny(path=tmp_path), image.name)
    image.unlink()
    wrong(lambda: tiny(path=tmp_path), f"class {FOUR[1]}")
    wrong(lambda: tiny(path=tmp_path / "nothing"), "dataset.path")


def test_damaged_parquet(tmp_path: Path) -> None:
    folder = write_hub(tmp_path, FOUR)
    valid = folder / "data" / "valid-0.parquet"
    content = valid.read_bytes()
    valid.write_bytes(content[:200])
    wrong(lambda: tiny(path=folder), valid.name)
    valid.unlink()
    wrong(lambda: tiny(path=folder), "valid*.parquet")
    assert tiny(with_test=False, path=folder).test is None


def test_the_archive_is_fetched_once(tmp_path: Path, data_root: Path, monkeypatch: Patch) -> None:
    folder = write_archive(tmp_path)
    path = tmp_path / ARCHIVE.filename
    with zipfile.ZipFile(path, "w") as zipped:
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(tmp_path))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    served = replace(ARCHIVE, url=path.as_uri(), md5=md5, sha256="")
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", served)
    assert TinyImageNetOptions.find() is None
    fetched = tiny()
    assert fetched.digest == tiny(path=tmp_path).digest
    assert TinyImageNetOptions.find() == data_root / ARCHIVE.folder
    path.unlink()
    assert tiny().digest == fetched.digest
    shutil.rmtree(data_root / ARCHIVE.folder)
    zipped_file = data_root / ARCHIVE.filename
    zipped_file.write_bytes(zipped_file.read_bytes()[:-100])
    wrong(tiny, "not whole")
    zipped_file.unlink()
    wrong(tiny, ARCHIVE.filename)
