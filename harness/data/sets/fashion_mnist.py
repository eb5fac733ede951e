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
from harness.data.assemble import assemble
from harness.data.cache import Contents, cached_store, file_times
from harness.data.dataset import Augmentation, Dataset
from harness.data.fetch import Download, fetch_file
from harness.data.options import Count, Label, Location, PublishedOptions, Size, register_dataset
from harness.data.packed import ImageStore
from harness.data.root import data_root

Split = Literal["train", "test"]
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
    """A published file.

    Attributes:
        download: The compressed file.
        sha256: Digest of the content, which Debian's files share although they are compressed anew.
        shape: Shape of the array in it.
    """

    download: Download
    sha256: str
    shape: tuple[int, ...]


def _file(name: str, size: str, md5: str, sha256: str, *shape: int) -> File:
    title, filename = f"Fashion-MNIST's {name}", f"{name}.gz"
    return File(Download(title, MIRROR + filename, filename, md5, size), sha256, shape)


# Split -> its images, its labels.
FILES: dict[Split, tuple[File, File]] = {
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


@register_dataset
class FashionMnistOptions(PublishedOptions):
    """60,000 training and 10,000 test images of 10 classes of clothes.

    Attributes:
        train: How many of the training images to use; all by default.
        image_size: 28 as published; 14, means of 2 x 2 pixels; 16, the same with two black pixels
            on each side.
        path: A folder that holds the four files, or torchvision's FashionMNIST/raw with them; by
            default they are looked for in the data root, then where Debian's package puts them, and
            else downloaded.
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"
    label: Label = "fashion-mnist"
    validation: Size = 5000
    train: Count | None = None
    image_size: Literal[28, 14, 16] = 28
    path: Location | None = None

    def load(self, with_test: bool) -> Dataset:
        """Load the official split; grey values are in three equal channels."""
        splits: tuple[Split, ...] = ("train", "test") if with_test else ("train",)
        folder = self._folder(splits)
        train, *test = (_open_split(folder, split, self.image_size) for split in splits)
        augmentation = Augmentation(padding=4 if self.image_size == SIZE else 2, flip=True)
        return assemble(self, augmentation, train, test[0] if test else None, n_train=self.train)

    def _folder(self, splits: tuple[Split, ...]) -> Path:
        """Return the folder that holds the files of these splits; download what is missing."""
        files = [file.download for split in splits for file in FILES[split]]
        places = [self.path, self.path / RAW] if self.path else [data_root() / RAW, DEBIAN]
        folder = _complete_folder(places, files)
        if folder is not None:
            return folder
        if self.path is None:
            try:
                for file in files:
                    fetch_file(file, places[0])
            except UserError as error:
                raise UserError(
                    f"{error}; or install Debian's package dataset-fashion-mnist, which has all "
                    "files"
                ) from None
            return places[0]
        folder = next((p for p in places[::-1] if p.is_dir()), self.path)
        missing = next(file for file in files if not (folder / file.filename).is_file())
        raise UserError(
            f"dataset.path: no {missing.filename} in {folder}; put {missing.description} there, or "
            "leave the path out to fetch the data"
        )

    @classmethod
    def find(cls) -> Path | None:
        """Return the folder that already holds the data, or None."""
        files = [file.download for split in FILES.values() for file in split]
        return _complete_folder([data_root() / RAW, DEBIAN], files)


def _complete_folder(folders: list[Path], files: list[Download]) -> Path | None:
    """Return the first of these folders that holds all files."""
    for folder in folders:
        if all((folder / file.filename).is_file() for file in files):
            return folder
    return None


def _open_split(folder: Path, split: Split, size: int) -> ImageStore:
    paths = [folder / file.download.filename for file in FILES[split]]
    source = {"path": str(folder), "split": split, "size": size, "files": file_times(paths)}

    def make() -> Contents:
        images, labels = (_read(folder, file) for file in FILES[split])
        return Contents(_blocks(images, size), labels.astype(np.int64), CLASSES)

    return cached_store(source, make)


def _blocks(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for i in range(0, len(images), 1000):
        yield np.repeat(resized(images[i : i + 1000], size)[..., None], 3, axis=-1)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Return images (N, 28, 28) uint8 in a size of 28, 14 or 16 pixels, (N, size, size).

    Smaller ones are means of 2 x 2 pixels, halves rounded up; for 16, the images get two more black
    pixels on each side first.
    """
    if size == SIZE:
        return images
    border = size - SIZE // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border))).astype(np.uint16)
    sums = padded.reshape(len(images), size, 2, size, 2).sum((2, 4), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _read(folder: Path, file: File) -> np.ndarray:
    """Return the array in an IDX file.

    Its format: two zeros, the type (8: bytes), the number of dimensions, each of them in four
    bytes, the values.

    Raises:
        UserError: It is not the published file.
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
            f"{file.download.description} in its place"
        )
    n = int(np.prod(file.shape))
    return np.frombuffer(content, np.uint8, offset=len(content) - n).reshape(file.shape)
