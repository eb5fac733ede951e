"""CIFAR in torchvision's layout and as parquet: small files with checksums of their own."""

import dataclasses
import hashlib
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.datasets
from data_files import encoded, part_digests
from helpers import Patch, wrong

from harness.data import Augmentation, load
from harness.data.sets import cifar
from harness.data.sets.cifar import Cifar10Options, Cifar100Options, CifarOptions

pytestmark = pytest.mark.usefixtures("data_root")
FROZEN = "6f01d09f1305 b7a0436331ef 0bc430aa771c"  # of TRAIN and TEST, validation: 100
NAMES = [f"class{i:02}" for i in range(100)]


def pictures(n_classes: int, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) uint8 and shuffled labels."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(n_classes), per_class))
    return random.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels


TRAIN, TEST = pictures(100, 3, 0), pictures(100, 1, 1)


def write_pickles(folder: Path, content: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Write files as the archives have them; return torchvision's list of names and checksums."""
    folder.mkdir(parents=True)
    for name, fields in content.items():
        if "data" in fields:  # all of red, then of green, then of blue
            planes = fields["data"].transpose(0, 3, 1, 2)
            fields = fields | {"data": planes.reshape(len(planes), -1)}
        (folder / name).write_bytes(pickle.dumps(fields))
    return [[n, hashlib.md5((folder / n).read_bytes()).hexdigest()] for n in content]


def trust(monkeypatch: Patch, reader: Any, sums: list[list[str]]) -> None:
    """Make a torchvision class accept these files: those of train, of test, and of the names."""
    monkeypatch.setattr(reader, "train_list", sums[:-2])
    monkeypatch.setattr(reader, "test_list", sums[-2:-1])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": sums[-1][1]})


@pytest.fixture
def write_cifar100(monkeypatch: Patch) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        content: dict[str, dict[str, Any]] = {
            name: {"data": images, "fine_labels": labels.tolist(), "coarse_labels": labels // 5}
            for name, (images, labels) in {"train": TRAIN, "test": TEST}.items()
        }
        folder = root / "cifar-100-python"
        sums = write_pickles(folder, content | {"meta": {"fine_label_names": NAMES}})
        trust(monkeypatch, torchvision.datasets.CIFAR100, sums)
        return folder

    return write


def write_hub(folder: Path, **names: list[str]) -> Path:
    """Write parquet files as `uoft-cs/cifar100` has them on the hub.

    names: for a split, the names of the classes in the order of its own numbers.
    """
    folder.mkdir(parents=True)
    for split, (images, labels) in {"train": TRAIN, "test": TEST}.items():
        own = names.get(split)
        columns = {
            "img": [{"bytes": encoded(i), "path": None} for i in images],
            "fine_label": [own.index(NAMES[c]) for c in labels] if own else labels,
            "coarse_label": labels // 5,
        }
        table = pa.table(columns)
        if own:
            info = {"info": {"features": {"fine_label": {"names": own, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def small(monkeypatch: Patch) -> None:
    monkeypatch.setattr(cifar, "SIZES", {"train": 300, "test": 100})


def options(path: Path | None = None, **fields: Any) -> Cifar100Options:
    return Cifar100Options(path=path, **{"validation": 100, **fields})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "layout", ["root", "folder", "above", "hub in root", "hub", "names", "other numbers"]
)
def test_every_layout_is_the_same_data(
    layout: str, data_root: Path, tmp_path: Path, write_cifar100: Callable[[Path], Path]
) -> None:
    """Classes are numbered by the alphabet; a parquet file may do otherwise, and say so."""
    other = {"train": NAMES[::-1], "test": NAMES[7:] + NAMES[:7]}
    folder = tmp_path / "elsewhere"
    path: Path | None = None
    if layout == "root":
        write_cifar100(data_root)
    elif layout == "hub in root":
        write_hub(data_root / "cifar100" / "cifar100")  # as the hub's client leaves it
    elif layout in ("folder", "above"):
        path = write_cifar100(folder) if layout == "folder" else write_cifar100(folder).parent
    else:
        names = {"hub": {}, "names": {"train": NAMES, "test": NAMES}, "other numbers": other}
        path = write_hub(folder, **names[layout])
    assert (path is None) == (Cifar100Options.find() is not None)
    assert part_digests(load(options(path))) == FROZEN


def test_what_is_loaded(data_root: Path, write_cifar100: Callable[[Path], Path]) -> None:
    write_cifar100(data_root)
    dataset = load(options())
    assert [len(part) for part in dataset.parts.values()] == [200, 100, 100]
    assert dataset.name == "cifar100" and dataset.class_names[7] == "class07"
    assert np.bincount(dataset.validation.labels).tolist() == [1] * 100
    both = np.concatenate([dataset.train.pixels(), dataset.validation.pixels()])
    assert sorted(i.tobytes() for i in both) == sorted(i.tobytes() for i in TRAIN[0])
    np.testing.assert_array_equal(dataset.test.pixels(), TEST[0])
    np.testing.assert_array_equal(dataset.test.labels, TEST[1])
    assert dataset.mean == (0.5071, 0.4867, 0.4408)
    assert dataset.std == (0.2675, 0.2565, 0.2761)
    assert dataset.augmentation == Augmentation(padding=4, flip=True)
    other = load(options(validation=0.5, split_seed=3))
    assert part_digests(other) == "ac5ca6e2cbd6 daec23e6899f 0bc430aa771c"


def test_without_test_images(data_root: Path, write_cifar100: Callable[[Path], Path]) -> None:
    write_cifar100(data_root)
    dataset = load(options(), with_test=False)
    assert dataset.test is None and len(dataset.train) == 200
    assert len(list((data_root / ".cache").glob("*/pixels.bin"))) == 1


def test_second_load_does_not_read_the_pickles(
    data_root: Path, write_cifar100: Callable[[Path], Path], monkeypatch: Patch
) -> None:
    write_cifar100(data_root)
    first = load(options()).digest
    monkeypatch.delattr(torchvision.datasets, "CIFAR100")
    assert load(options()).digest == first


def test_cifar10_takes_its_normalisation_from_train(data_root: Path, monkeypatch: Patch) -> None:
    images, labels = pictures(10, 10, 3)
    parts = {f"data_batch_{i + 1}": slice(20 * i, 20 * i + 20) for i in range(5)}
    parts["test_batch"] = slice(None)
    content: dict[str, dict[str, Any]] = {
        name: {"data": images[part], "labels": labels[part].tolist()}
        for name, part in parts.items()
    }
    content["batches.meta"] = {"label_names": list("abcdefghij")}
    sums = write_pickles(data_root / "cifar-10-batches-py", content)
    trust(monkeypatch, torchvision.datasets.CIFAR10, sums)
    dataset = load(Cifar10Options(validation=0.2))
    assert part_digests(dataset) == "b29f86ebe67f bd059a352e3a 07dec963787e"
    pixels = dataset.train.pixels().reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-12)


def test_wrong_files(
    tmp_path: Path, data_root: Path, write_cifar100: Callable[[Path], Path], monkeypatch: Patch
) -> None:
    wrong(lambda: load(options(tmp_path / "nowhere")), "dataset.path:", "nowhere")
    hub = write_hub(tmp_path / "hub")
    wrong(lambda: load(options(hub)), "dataset.path:", "100 images, not 10000", "parquet")
    monkeypatch.setattr(cifar, "SIZES", {"train": 300, "test": 100})
    hub = write_hub(tmp_path / "more", train=[*NAMES, "one more"])
    wrong(lambda: load(options(hub)), "dataset.path:", "101", "parquet")
    file = write_cifar100(data_root) / "test"
    file.write_bytes(file.read_bytes()[:-1])
    wrong(lambda: load(options()), "dataset:", str(file.parent), "https://www.cs.toronto.edu")


@pytest.mark.parametrize("options", [Cifar10Options, Cifar100Options])
def test_archive_is_torchvisions(options: type[CifarOptions]) -> None:
    files = options.files
    reader, archive = getattr(torchvision.datasets, files.reader), files.archive
    known = (reader.url, reader.filename, reader.tgz_md5, reader.base_folder)
    assert (archive.url, archive.filename, archive.md5, archive.folder) == known


def test_a_missing_archive_is_downloaded(
    data_root: Path, tmp_path: Path, write_cifar100: Callable[[Path], Path], monkeypatch: Patch
) -> None:
    folder = write_cifar100(tmp_path / "original")
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    files = Cifar100Options.files
    archive = dataclasses.replace(files.archive, url=path.as_uri(), md5=md5, sha256="")
    monkeypatch.setattr(Cifar100Options, "files", dataclasses.replace(files, archive=archive))
    assert part_digests(load(options())) == FROZEN
    assert Cifar100Options.find() == data_root / "cifar-100-python"
