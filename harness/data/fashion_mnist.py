"""Fashion-MNIST: 70,000 grey pictures of clothes, in the four files that torchvision reads.

Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms, 2017, https://arxiv.org/abs/1708.07747. The format of the files, IDX:
Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, 1998.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, data_root
from harness.data.assemble import assemble
from harness.data.cache import Contents, cached, file_times
from harness.data.fetch import Download, fetch_file
from harness.data.options import FashionMnistOptions
from harness.data.packed import ImageStore

Part = Literal["train", "test"]
RAW = Path("FashionMNIST", "raw")  # torchvision's, in a data root
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SIZE = 28  # pixels, of the published images
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class File:
    """download: the compressed file as published. sha256: of what is in it, the same for Debian's
    files, which are compressed anew. shape: of the array in it."""

    download: Download
    sha256: str
    shape: tuple[int, ...]


def _file(name: str, size: str, md5: str, sha256: str, *shape: int) -> File:
    title, filename = f"Fashion-MNIST's {name}", f"{name}.gz"
    return File(Download(title, MIRROR + filename, filename, md5, size), sha256, shape)


# Part -> its images, its labels.
FILES: dict[Part, tuple[File, File]] = {
    "train": (
        _file(
            "train-images-idx3-ubyte",
            "26 MB",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            *(60_000, SIZE, SIZE),
        ),
        _file(
            "train-labels-idx1-ubyte",
            "30 kB",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            60_000,
        ),
    ),
    "test": (
        _file(
            "t10k-images-idx3-ubyte",
            "4.4 MB",
            "bef4ecab320f06d8554ea6380940ec79",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            *(10_000, SIZE, SIZE),
        ),
        _file(
            "t10k-labels-idx1-ubyte",
            "5 kB",
            "bb300cfdad3c16e7a12a480ee83cd310",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            10_000,
        ),
    ),
}


def load(options: FashionMnistOptions, with_test: bool = True) -> Dataset:
    """The official split, grey values in three equal channels. From `path` alone if it is given;
    else from the data root or Debian's folder, and fetched if it is in neither. with_test: False
    leaves the test images unopened.

    Raises:
        UserError: a file is missing and cannot be fetched, or is not the published one.
    """
    parts: tuple[Part, ...] = ("train", "test") if with_test else ("train",)
    folder = _folder(options, parts)
    train, *test = (_stored(folder, part, options.image_size) for part in parts)
    augmentation = Augmentation(padding=4 if options.image_size == SIZE else 2, flip=True)
    return assemble(options, augmentation, train, test[0] if test else None, n_train=options.train)


def _folder(options: FashionMnistOptions, parts: tuple[Part, ...]) -> Path:
    """Where the files of these parts lie."""
    wanted = [file.download for part in parts for file in FILES[part]]
    if options.path is not None:
        places = [options.path, options.path / RAW]
    else:
        places = [data_root() / RAW, DEBIAN]
    for place in places:
        if all((place / file.filename).is_file() for file in wanted):
            return place
    if options.path is None:
        try:
            for file in wanted:
                fetch_file(file, places[0])
        except UserError as error:
            raise UserError(
                f"{error}; or install Debian's package dataset-fashion-mnist, which has all files"
            ) from None
        return places[0]
    place = next((p for p in places[::-1] if p.is_dir()), options.path)
    missing = next(file for file in wanted if not (place / file.filename).is_file())
    raise UserError(
        f"dataset.path: no {missing.filename} in {place}; put {missing.by_hand} there, or leave "
        "the path out to fetch the data"
    )


def place() -> Path | None:
    """Where the files lie, if they do; nothing is fetched."""
    names = [file.download.filename for files in FILES.values() for file in files]
    places = (data_root() / RAW, DEBIAN)
    return next((p for p in places if all((p / name).is_file() for name in names)), None)


def _stored(folder: Path, part: Part, size: int) -> ImageStore:
    paths = [folder / file.download.filename for file in FILES[part]]
    source = {"path": str(folder), "split": part, "size": size, "files": file_times(paths)}

    def make() -> Contents:
        images, labels = (_read(folder, file) for file in FILES[part])
        return Contents(_blocks(images, size), labels.astype(np.int64), CLASSES)

    return cached(source, make)


def _blocks(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for i in range(0, len(images), 1000):
        yield np.repeat(resized(images[i : i + 1000], size)[..., None], 3, axis=-1)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """(N, size, size) uint8 of (N, 28, 28): as they are, or means of 2 x 2 pixels, halves rounded
    up, for 16 after two black pixels more on each side."""
    if size == SIZE:
        return images
    border = size - SIZE // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border))).astype(np.uint16)
    sums = padded.reshape(len(images), size, 2, size, 2).sum((2, 4), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _read(folder: Path, file: File) -> np.ndarray:
    """The array in an IDX file: two zeros, the type (8: bytes), the number of dimensions, each of
    them in four bytes, the values.

    Raises:
        UserError: it is not the published file.
    """
    path = folder / file.download.filename
    try:
        content = gzip.decompress(path.read_bytes())
        problem = "its checksum is wrong"
    except (OSError, EOFError, zlib.error) as error:
        content, problem = b"", str(error)[:100]
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(
            f"dataset: {path} is not Fashion-MNIST's, or not whole ({problem}); put "
            f"{file.download.by_hand} in its place"
        )
    n = int(np.prod(file.shape))
    return np.frombuffer(content, np.uint8, offset=len(content) - n).reshape(file.shape)
