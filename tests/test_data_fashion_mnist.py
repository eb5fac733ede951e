"""Fashion-MNIST: its files in both places, their download, its sizes and its limited training part.

The files are of the real format, small, and made here; their checksums replace the real ones.
"""

import contextlib
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from data_files import experiment, part_digests
from helpers import Patch, wrong

from harness.data import Augmentation, Dataset, fetch, load
from harness.data.sets import fashion_mnist
from harness.data.sets.fashion_mnist import CLASSES, FILES, RAW, FashionMnistOptions, Split, resized
from harness.data.split import draw_subset

pytestmark = pytest.mark.usefixtures("data_root", "served")
REAL, PACKAGE = dict(FILES), fashion_mnist.DEBIAN
SIZES: dict[Split, int] = {"train": 300, "test": 50}


def picture_set(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 28, 28) uint8 and shuffled labels."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n, dtype=np.uint8) % 10)
    return random.integers(0, 256, (n, 28, 28), np.uint8), labels


ARRAYS = {part: picture_set(n, n) for part, n in SIZES.items()}


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A folder with the four files, which is now the mirror; there is no package of Debian's."""
    folder = tmp_path / "served"
    folder.mkdir()
    for part, arrays in ARRAYS.items():
        files = []
        for file, array in zip(REAL[part], arrays, strict=True):
            path = folder / file.download.filename
            path.write_bytes(gzip.compress(idx(array), mtime=0))
            md5 = hashlib.md5(path.read_bytes()).hexdigest()
            download = replace(file.download, url=path.as_uri(), md5=md5)
            sha256 = hashlib.sha256(idx(array)).hexdigest()
            files.append(replace(file, download=download, sha256=sha256, shape=array.shape))
        monkeypatch.setitem(FILES, part, tuple(files))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no package")
    return folder


def fashion(with_test: bool = True, **fields: object) -> Dataset:
    fields = {"validation": 50} | fields
    return load(FashionMnistOptions.model_validate(fields), with_test)


def test_the_files_are_torchvisions() -> None:
    downloads = [file.download for files in REAL.values() for file in files]
    reader = torchvision.datasets.FashionMNIST
    assert [(d.filename, d.md5) for d in downloads] == reader.resources
    assert {d.url for d in downloads} == {reader.mirrors[0] + name for name, _ in reader.resources}
    assert list(CLASSES) == reader.classes
    assert Path(reader.__name__, "raw") == RAW
    assert [f.shape for fs in REAL.values() for f in fs] == [
        *((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    ]


def test_a_folder_with_the_files(served: Path) -> None:
    dataset = fashion(path=served)
    assert dataset.name == "fashion-mnist" and dataset.class_names == CLASSES
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [250, 50, 50]
    assert np.bincount(dataset.validation.labels).tolist() == [5] * 10
    images, labels = ARRAYS["test"]
    np.testing.assert_array_equal(dataset.test.pixels(), np.repeat(images[..., None], 3, -1))
    np.testing.assert_array_equal(dataset.test.labels, labels)
    both = np.concatenate([dataset.train.pixels(), dataset.validation.pixels()])[..., 1]
    assert sorted(i.tobytes() for i in both) == sorted(i.tobytes() for i in ARRAYS["train"][0])
    assert dataset.augmentation == Augmentation(padding=4, flip=True)
    mean = dataset.train.pixels().mean() / 255
    np.testing.assert_allclose(dataset.mean, [mean] * 3, rtol=1e-12)


def test_every_place_holds_the_same_data(
    served: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    torchvisions = tmp_path / "torchvision"
    (torchvisions / RAW).mkdir(parents=True)
    for path in served.iterdir():  # Debian's files are compressed anew
        content = gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=1)
        (torchvisions / RAW / path.name).write_bytes(content)
    places = (served, torchvisions, torchvisions / RAW)
    digests = {fashion(path=place).digest for place in places}
    monkeypatch.setattr(fashion_mnist, "DEBIAN", torchvisions / RAW)
    digests.add(fashion().digest)
    assert not (data_root / RAW).exists()  # nothing was fetched
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no package")
    digests.add(fashion().digest)
    assert {p.name for p in (data_root / RAW).glob("*.gz")} == {p.name for p in served.iterdir()}
    for path in served.iterdir():
        path.unlink()
    digests.add(fashion().digest)  # from the data root
    assert len(digests) == 1


def test_without_test_images(served: Path) -> None:
    for file in FILES["test"]:
        (served / file.download.filename).unlink()
    blind = fashion(path=served, with_test=False)
    assert blind.test is None and len(blind.train) == 250
    assert blind.digest == fashion(with_test=False).digest  # the test files cannot be fetched


def test_sizes(served: Path) -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, :2, :2] = [[1, 2], [3, 4]]  # mean 2.5
    image[0, 26:, 26:] = [[255, 255], [255, 254]]  # mean 254.75
    image[0, 0, 2] = 1  # mean 0.25
    small, bordered = resized(image, 14), resized(image, 16)
    assert small.dtype == bordered.dtype == np.uint8
    assert (small[0, 0, 0], small[0, 13, 13], small[0, 0, 1]) == (3, 255, 0)
    np.testing.assert_array_equal(bordered[0, 1:15, 1:15], small[0])
    assert bordered.shape == (1, 16, 16) and bordered.sum() == small.sum()
    assert np.shares_memory(resized(image, 28), image)

    datasets = {size: fashion(path=served, image_size=size) for size in (28, 14, 16)}
    assert len({d.digest for d in datasets.values()}) == 3
    for size, dataset in datasets.items():
        assert dataset.train.pixels().shape == (250, size, size, 3)
        assert dataset.augmentation == Augmentation(padding=4 if size == 28 else 2, flip=True)
    wrong(lambda: experiment(name="fashion_mnist", image_size=20), "dataset.image_size: ")


def test_some_of_the_training_images(served: Path) -> None:
    every, some = fashion(path=served), fashion(path=served, train=70)
    np.testing.assert_array_equal(some.validation.pixels(), every.validation.pixels())
    assert len(some.train) == 70 and some.test is not None and len(some.test) == 50
    assert np.bincount(some.train.labels).tolist() == [7] * 10
    held = {i.tobytes() for i in every.train.pixels()}
    assert {i.tobytes() for i in some.train.pixels()} < held
    np.testing.assert_allclose(some.mean, [some.train.pixels().mean() / 255] * 3, rtol=1e-12)
    assert fashion(path=served, train=250).digest == every.digest
    assert fashion(path=served, train=70, split_seed=1).digest != some.digest
    wrong(lambda: fashion(path=served, train=251), "dataset.train: 251 of 250")
    wrong(lambda: fashion(path=served, train=9), "dataset.train: 9 of 250", "use 10 to 250")
    wrong(lambda: experiment(name="fashion_mnist", train=0), "dataset.train: ")


def test_the_limited_part_has_a_seed_of_its_own(served: Path, monkeypatch: Patch) -> None:
    seeds = []

    def first(index: np.ndarray, labels: np.ndarray, n: int, seed: int, names: object) -> object:
        seeds.append(seed)
        return index[:n]

    monkeypatch.setattr("harness.data.assemble.draw_subset", first)
    fashion(path=served, train=70)
    fashion(path=served, train=70, split_seed=4)
    assert seeds == [2, 6]


def test_fewer_images_are_among_more() -> None:
    labels = np.arange(100) % 4
    index = np.arange(20, 100)
    few, more = (draw_subset(index, labels, n, seed=5) for n in (12, 40))
    assert set(few) < set(more) < set(index)
    assert not np.array_equal(few, draw_subset(index, labels, 12, seed=6))


def test_a_broken_file(served: Path) -> None:
    name = FILES["train"][0].download.filename
    path, content = served / name, (served / name).read_bytes()
    description = FILES["train"][0].download.description
    other = gzip.compress(idx(ARRAYS["train"][0][::-1]))
    for broken, problem in (
        (content[:-20], "Compressed file ended"),
        (b"<html>", "Not a gzipped file"),
        (content[:99] + bytes(9) + content[108:], "not whole ("),
        (other, "its checksum is wrong"),
    ):
        path.write_bytes(broken)
        wrong(lambda: fashion(path=served), f"dataset: {path} ", problem, description)


def test_a_file_of_another_size(served: Path) -> None:
    path = served / FILES["test"][1].download.filename
    path.write_bytes(gzip.compress(idx(ARRAYS["test"][1][:-1])))
    wrong(lambda: fashion(path=served), f"dataset: {path} ")


def test_a_missing_file(served: Path, tmp_path: Path) -> None:
    name = FILES["test"][0].download.filename
    (served / name).unlink()
    wrong(lambda: fashion(path=served), f"dataset.path: no {name} in {served}", "file:", "md5")
    (tmp_path / "root" / RAW).mkdir(parents=True)
    wrong(
        lambda: fashion(path=tmp_path / "root"), "dataset.path: ", f"in {tmp_path / 'root' / RAW};"
    )
    wrong(lambda: fashion(path=tmp_path / "x"), "dataset.path: ", f"in {tmp_path / 'x'};")


def test_what_cannot_be_fetched(served: Path, data_root: Path) -> None:
    download = FILES["train"][1].download
    (served / download.filename).unlink()
    wrong(fashion, "dataset: ", str(data_root / RAW), download.description, "Debian")
    (served / download.filename).write_bytes(b"other")
    wrong(fashion, "dataset: ", "checksum (5 bytes", "file:", "Debian")
    assert not list((data_root / RAW).glob(f"*{download.filename}*.tmp"))


def test_another_process_was_faster(tmp_path: Path, monkeypatch: Patch) -> None:
    download = replace(FILES["train"][1].download, url="file:///nowhere")

    @contextlib.contextmanager
    def waiting(*_: object) -> Iterator[None]:
        (tmp_path / download.filename).touch()
        yield

    monkeypatch.setattr(fetch, "locked", waiting)
    assert fetch.fetch_file(download, tmp_path) == tmp_path / download.filename


def test_a_data_root_that_cannot_be_written(data_root: Path) -> None:
    data_root.mkdir()
    (data_root / RAW.parent).touch()
    wrong(fashion, "dataset: ", "--data-root")


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_package(monkeypatch: Patch) -> None:
    for part, files in REAL.items():
        monkeypatch.setitem(FILES, part, files)
    dataset = fashion(path=PACKAGE, image_size=14, validation=5000)
    assert part_digests(dataset) == "45acd089130c bd88fe3fe216 3fdea3438595"
