"""CIFAR in torchvision's layout and as parquet, its download, and its augmentation.

The files are of the real formats, small, and made here; their checksums replace the real ones.
"""

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
import torchvision.datasets
from commands import HANG
from data_files import part_digests
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, ImageSet, fetch, load
from harness.data.batches import epoch_generator
from harness.data.placement import on_device
from harness.data.sets.cifar import Cifar10Options, Cifar100Options, CifarOptions
from harness.data.small import DeviceImages

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("data_root")
SPLIT = {"validation": 100}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pictures(n_classes: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) uint8 and shuffled labels."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(n_classes), each))
    return random.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels


def rows(images: np.ndarray) -> np.ndarray:
    """As CIFAR's pickles have them: all of red, then of green, then of blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


TRAIN, TEST = pictures(100, 3, 0), pictures(100, 1, 1)


@pytest.fixture
def write_cifar100(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Writes the pickles of CIFAR-100 into a folder; torchvision then accepts these."""

    def write(root: Path) -> Path:
        folder = root / "cifar-100-python"
        folder.mkdir(parents=True)
        for name, (images, labels) in {"train": TRAIN, "test": TEST}.items():
            content = {
                "data": rows(images),
                "fine_labels": labels.tolist(),
                "coarse_labels": (labels // 5).tolist(),
            }
            (folder / name).write_bytes(pickle.dumps(content))
        names = [f"class{i:02}" for i in range(100)]
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
        reader = torchvision.datasets.CIFAR100
        monkeypatch.setattr(reader, "train_list", [["train", md5(folder / "train")]])
        monkeypatch.setattr(reader, "test_list", [["test", md5(folder / "test")]])
        monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(folder / "meta")})
        return folder

    return write


def as_before_split(dataset: Dataset) -> list[bytes]:
    """Every training and validation image, in an order of their own."""
    assert dataset.validation is not None
    both = np.concatenate([dataset.train.pixels(), dataset.validation.pixels()])
    return sorted(image.tobytes() for image in both)


def test_torchvision_layout(data_root: Path, write_cifar100: Callable[[Path], Path]) -> None:
    write_cifar100(data_root)
    dataset = load(Cifar100Options(**SPLIT))
    assert dataset.validation is not None and dataset.test is not None
    assert dataset.name == "cifar100"
    assert dataset.class_names[7] == "class07"
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [200, 100, 100]
    assert np.bincount(dataset.validation.labels).tolist() == [1] * 100
    assert as_before_split(dataset) == sorted(i.tobytes() for i in TRAIN[0])
    np.testing.assert_array_equal(dataset.test.pixels(), TEST[0])
    np.testing.assert_array_equal(dataset.test.labels, TEST[1])
    assert dataset.mean == (0.5071, 0.4867, 0.4408)
    assert dataset.std == (0.2675, 0.2565, 0.2761)
    assert dataset.augmentation == Augmentation(padding=4, flip=True)


def test_without_test_images(data_root: Path, write_cifar100: Callable[[Path], Path]) -> None:
    write_cifar100(data_root)
    blind = load(Cifar100Options(**SPLIT), with_test=False)
    assert blind.test is None and len(blind.train) == 200
    assert len(list((data_root / ".cache").glob("*/pixels.bin"))) == 1


def test_parts_are_frozen(data_root: Path, write_cifar100: Callable[[Path], Path]) -> None:
    write_cifar100(data_root)
    assert part_digests(load(Cifar100Options(**SPLIT))) == "6f01d09f1305 b7a0436331ef 0bc430aa771c"
    assert (
        part_digests(load(Cifar100Options(validation=0.5, split_seed=3)))
        == "ac5ca6e2cbd6 daec23e6899f 0bc430aa771c"
    )


def test_a_path_replaces_the_data_root(
    tmp_path: Path, write_cifar100: Callable[[Path], Path]
) -> None:
    folder = write_cifar100(tmp_path / "elsewhere")
    digests = {load(Cifar100Options(path=path, **SPLIT)).digest for path in (folder, folder.parent)}
    assert len(digests) == 1
    with pytest.raises(UserError, match=r"dataset\.path: neither cifar-100-python/ nor train"):
        load(Cifar100Options(path=tmp_path / "nowhere", **SPLIT))


def test_second_load_reads_neither_pickles_nor_all_pixels(
    data_root: Path, write_cifar100: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar100(data_root)
    first = load(Cifar100Options(**SPLIT)).digest
    monkeypatch.delattr(torchvision.datasets, "CIFAR100")
    assert load(Cifar100Options(**SPLIT)).digest == first


def test_cifar10_takes_its_normalisation_from_train(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = pictures(10, 10, 3)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for k, name in enumerate(names):
        part = slice(20 * k, 20 * k + 20) if k < 5 else slice(0, 100)
        content = {"data": rows(images[part]), "labels": labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    reader = torchvision.datasets.CIFAR10
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(reader, "train_list", sums[:5])
    monkeypatch.setattr(reader, "test_list", sums[5:])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(folder / "batches.meta")})

    dataset = load(Cifar10Options(validation=0.2))
    assert part_digests(dataset) == "b29f86ebe67f bd059a352e3a 07dec963787e"
    pixels = dataset.train.pixels().reshape(-1, 3) / 255
    assert len(dataset.train) == 80
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-12)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_hub_parquet(folder: Path, names: dict[str, list[str]] | None = None) -> None:
    """As `uoft-cs/cifar100` lies on the hub: two label columns, PNG in a struct. names: part ->
    the names of the classes in the order of its own numbers."""
    folder.mkdir(parents=True)
    true = [f"class{i:02}" for i in range(100)]
    for name, (images, labels) in {"train": TRAIN, "test": TEST}.items():
        own = (names or {}).get(name)
        table = pa.table(
            {
                "img": [{"bytes": png(i), "path": None} for i in images],
                "fine_label": [own.index(true[c]) for c in labels] if own else labels,
                "coarse_label": labels // 5,
            }
        )
        if own:
            info = {"info": {"features": {"fine_label": {"names": own, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet")


def test_parquet_is_the_same_data(
    data_root: Path,
    tmp_path: Path,
    write_cifar100: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.data.sets.cifar.SIZES", {"train": 300, "test": 100})
    write_cifar100(tmp_path / "pickles")
    write_hub_parquet(data_root / "cifar100" / "cifar100")  # as the hub's client leaves it
    from_parquet = load(Cifar100Options(**SPLIT))
    assert from_parquet.digest == load(Cifar100Options(path=tmp_path / "pickles", **SPLIT)).digest
    assert from_parquet.digest != load(Cifar100Options(validation=100, split_seed=1)).digest


def test_parquet_classes_are_matched_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both data sets number their classes by the alphabet; a file may do otherwise, and say so."""
    monkeypatch.setattr("harness.data.sets.cifar.SIZES", {"train": 300, "test": 100})
    true = [f"class{i:02}" for i in range(100)]
    usual = {"train": true, "test": true}
    for k, names in enumerate((None, usual, {"train": true[::-1], "test": true[7:] + true[:7]})):
        write_hub_parquet(tmp_path / str(k), names)
    digests = {load(Cifar100Options(path=tmp_path / str(k), **SPLIT)).digest for k in range(3)}
    assert len(digests) == 1
    write_hub_parquet(tmp_path / "few", usual | {"train": [*true, "one more"]})
    with pytest.raises(UserError, match="names 101 classes, not 100"):
        load(Cifar100Options(path=tmp_path / "few", **SPLIT))


def test_other_images_are_not_taken_for_cifar(tmp_path: Path) -> None:
    write_hub_parquet(tmp_path / "other")
    with pytest.raises(UserError, match=r"100 images, not 10000; .* parquet"):
        load(Cifar100Options(path=tmp_path / "other"))


def test_a_changed_pickle_is_refused(
    data_root: Path, write_cifar100: Callable[[Path], Path]
) -> None:
    folder = write_cifar100(data_root)
    (folder / "test").write_bytes((folder / "test").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"not whole .* delete it, then https://www.cs.toronto.edu"):
        load(Cifar100Options(**SPLIT))


@pytest.mark.parametrize("options", [Cifar10Options, Cifar100Options])
def test_archive_is_torchvisions(options: type[CifarOptions]) -> None:
    files = options.files
    reader, archive = getattr(torchvision.datasets, files.reader), files.archive
    assert archive.url == reader.url
    assert archive.filename == reader.filename
    assert archive.md5 == reader.tgz_md5
    assert archive.folder == reader.base_folder


# The download.


class Server(http.server.ThreadingHTTPServer):
    """Serves one folder on this machine and counts the requests; `cut` ends each answer early."""

    def __init__(self, folder: Path) -> None:
        self.requests, self.cut = 0, False
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.requests += 1
        time.sleep(0.3)  # a second process has time to ask
        super().do_GET()

    def copyfile(self, source: io.BufferedIOBase, outputfile: io.BufferedIOBase) -> None:  # type: ignore[override]
        data = source.read()
        outputfile.write(data[: len(data) // 2] if self.server.cut else data)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def archive(
    server: Server,
    tmp_path: Path,
    write_cifar100: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> fetch.Archive:
    """CIFAR-100's archive as the server has it, which `load` now wants."""
    folder = write_cifar100(tmp_path / "original")
    path = tmp_path / "served" / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    files = Cifar100Options.files
    archive = dataclasses.replace(
        files.archive, url=f"{server.url}/{path.name}", md5=md5(path), size="1 MB"
    )
    monkeypatch.setattr(Cifar100Options, "files", dataclasses.replace(files, archive=archive))
    return archive


def visible(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def test_download(archive: fetch.Archive, server: Server, data_root: Path) -> None:
    dataset = load(Cifar100Options(**SPLIT))
    assert as_before_split(dataset) == sorted(i.tobytes() for i in TRAIN[0])
    load(Cifar100Options(**SPLIT))
    assert server.requests == 1
    assert visible(data_root) == {"cifar-100-python", "cifar-100-python.tar.gz"}


def refused(archive: fetch.Archive, data_root: Path, reason: str) -> None:
    """`load` ends with one line that says all one needs, and nothing looks finished."""
    with pytest.raises(UserError, match=reason) as caught:
        load(Cifar100Options(**SPLIT))
    text = str(caught.value)
    assert "\n" not in text
    for part in (archive.title, archive.url, archive.size, archive.md5, str(data_root)):
        assert part in text
    assert visible(data_root) == set()
    assert not list(data_root.glob(".*.part"))


def test_wrong_checksum(archive: fetch.Archive, server: Server, data_root: Path) -> None:
    path = data_root.parent / "served" / archive.filename
    path.write_bytes(path.read_bytes() + b"!")
    refused(archive, data_root, "came with a wrong checksum")


def test_truncated(archive: fetch.Archive, server: Server, data_root: Path) -> None:
    server.cut = True
    refused(archive, data_root, "came with a wrong checksum")
    server.cut = False
    assert len(load(Cifar100Options(**SPLIT)).train) == 200  # the next try succeeds


def test_not_there(archive: fetch.Archive, server: Server, data_root: Path) -> None:
    (data_root.parent / "served" / archive.filename).unlink()
    refused(archive, data_root, r"cannot be fetched \(File not found\)")


def at(port: int, archive: fetch.Archive, monkeypatch: pytest.MonkeyPatch) -> fetch.Archive:
    """The archive, looked for at another port of this machine."""
    moved = dataclasses.replace(archive, url=f"http://127.0.0.1:{port}/{archive.filename}")
    files = dataclasses.replace(Cifar100Options.files, archive=moved)
    monkeypatch.setattr(Cifar100Options, "files", files)
    return moved


def test_offline(archive: fetch.Archive, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(at(port, archive, monkeypatch), data_root, r"fetched \(Connection refused\)")


def test_no_answer(
    archive: fetch.Archive, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        refused(at(port, archive, monkeypatch), data_root, r"fetched \(timed out\)")


def test_archive_put_there_by_hand(archive: fetch.Archive, server: Server, data_root: Path) -> None:
    data_root.mkdir()
    content = (data_root.parent / "served" / archive.filename).read_bytes()
    (data_root / archive.filename).write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"not whole .* delete it"):
        load(Cifar100Options(**SPLIT))
    (data_root / archive.filename).write_bytes(content)
    assert len(load(Cifar100Options(**SPLIT)).train) == 200
    assert server.requests == 0


def test_nothing_is_written_outside(
    archive: fetch.Archive, data_root: Path, tmp_path: Path
) -> None:
    data_root.mkdir()
    path = data_root / archive.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"{archive.folder}/../../../escaped"), io.BytesIO())
    bad = dataclasses.replace(archive, md5=md5(path))
    with pytest.raises(UserError, match="cannot be extracted"):
        fetch.fetch(bad, data_root)
    assert not list(tmp_path.rglob("escaped"))
    assert visible(data_root) == {archive.filename}


def test_unwritable_root(archive: fetch.Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot put CIFAR-100 into .* --data-root"):
        fetch.fetch(archive, tmp_path / "file" / "data")


def test_two_processes_download_once(
    archive: fetch.Archive, server: Server, data_root: Path
) -> None:
    code = (
        "from pathlib import Path; from harness.data.fetch import Archive, fetch; "
        f"print(fetch({archive!r}, Path({str(data_root)!r})))"
    )
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [p.communicate(timeout=HANG) for p in both]
    assert [p.returncode for p in both] == [0, 0], results
    assert {out.strip() for out, _ in results} == {str(data_root / archive.folder)}
    assert server.requests == 1


# The augmentation.


def small(images: np.ndarray) -> Dataset:
    part = ImageSet(images, np.zeros(len(images), np.int64))
    std = (0.2675, 0.2565, 0.2761)
    return Dataset(
        "small", ("a", "b"), part, part, part, (0.5071, 0.4867, 0.4408), std, Augmentation(4, True)
    )


def test_augmentation_is_torchvisions_pixel_for_pixel() -> None:
    dataset = small(pictures(1, 150, 5)[0])
    images = DeviceImages(dataset, dataset.train, CPU)
    got = torch.cat([b.x for b in images.augmented(64, epoch_generator(3, 7))])

    generator, n = epoch_generator(3, 7), len(images)
    order = torch.randperm(n, generator=generator)
    offsets = torch.randint(0, 9, (2, n), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    for i in range(n):
        image = torch.from_numpy(dataset.train.pixels()[order[i]]).permute(2, 0, 1)
        top, left = offsets[:, i].tolist()
        image = TF.crop(TF.pad(image, [4]), top, left, 32, 32)  # zero is black before normalising
        image = TF.horizontal_flip(image) if flips[i] else image
        expected = TF.normalize(TF.to_dtype(image, torch.float32, scale=True), *_normal(dataset))
        torch.testing.assert_close(got[i], expected, rtol=0, atol=2e-6)


def _normal(dataset: Dataset) -> tuple[list[float], list[float]]:
    return list(dataset.mean), list(dataset.std)


def placements(images: torch.Tensor) -> np.ndarray:
    """Which of the 9 x 9 x 2 crops each image (3, 32, 32) is, from coordinates in its colours."""
    found = []
    for row, column, _ in images.round().to(torch.int64):
        inside = row > 0
        y, x = inside.nonzero()[0].tolist()
        flip = bool(column[y].max() != column[y][inside[y]][-1])
        line = column[y].flip(0) if flip else column[y]
        x = int((line > 0).nonzero()[0])
        top, left = int(row[y].max()) - 1 - y + 4, int(line[x]) - 1 - x + 4
        found.append((top * 9 + left) * 2 + flip)
    return np.asarray(found)


def test_augmentation_has_torchvisions_support_and_distribution() -> None:
    grid = np.zeros((32, 32, 3), np.uint8)
    grid[..., 0], grid[..., 1] = np.arange(1, 33)[:, None], np.arange(1, 33)[None]
    n = 6000
    dataset = dataclasses.replace(
        small(np.repeat(grid[None], n, 0)), mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)
    )
    images = DeviceImages(dataset, dataset.train, CPU)
    ours = placements(next(images.augmented(n, epoch_generator(0, 0))).x)

    torch.manual_seed(0)
    transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    image = torch.from_numpy(grid).permute(2, 0, 1)
    theirs = placements(torch.stack([transform(image) for _ in range(n)]))

    counts = np.stack([np.bincount(x, minlength=162) for x in (ours, theirs)])
    assert counts.shape == (2, 162) and (counts > 0).all()
    assert scipy.stats.chisquare(counts[0]).pvalue > 1e-3
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


def test_validation_images_are_never_augmented(
    data_root: Path, write_cifar100: Callable[[Path], Path]
) -> None:
    write_cifar100(data_root)
    dataset = load(Cifar100Options(**SPLIT))
    assert dataset.validation is not None
    held_out = on_device(dataset, dataset.validation, CPU, 0)
    pixels = torch.from_numpy(dataset.validation.pixels()).permute(0, 3, 1, 2)
    expected = TF.normalize(TF.to_dtype(pixels, torch.float32, scale=True), *_normal(dataset))
    torch.manual_seed(1)
    for _ in range(2):
        got = torch.cat([b.x for b in held_out.plain(64)])
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
    known = {image.tobytes() for image in dataset.validation.pixels()}
    assert not known & {image.tobytes() for image in dataset.train.pixels()}


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    dataset = small(pictures(1, 30, 6)[0])
    images = DeviceImages(dataset, dataset.train, CPU)

    def epoch(seed: int, number: int) -> torch.Tensor:
        return torch.cat([b.x for b in images.augmented(8, epoch_generator(seed, number))])

    first = epoch(1, 2)
    epoch(1, 3)
    torch.rand(5)
    assert torch.equal(first, epoch(1, 2))
    assert not torch.equal(first, epoch(1, 3))
    assert not torch.equal(first, epoch(2, 2))
