"""Decode images of any kind to uint8 RGB arrays of a given size, as torchvision does on PIL."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.common.errors import UserError
from harness.common.reading import open_file

if TYPE_CHECKING:
    from PIL import Image

# Pillow warns about what it reads all the same, without the picture's name.
warnings.filterwarnings("ignore", module=r"PIL\.")

CHUNK = 256  # images decoded ahead of the writer
LONGEST = 20  # times the shorter side: beyond, it is hardly a picture, and could fill the memory


@dataclass(frozen=True)
class ImageFormat:
    """The stored format of images.

    Attributes:
        size: The length of the shorter side in pixels.
        square: Whether only the central square is kept.
        resampling: `bilinear` is antialiased; `box`, the mean of whole pixels, is for images whose
            shorter side is a multiple of the size.
    """

    size: int
    square: bool
    resampling: Literal["bilinear", "box"] = "bilinear"

    def as_json(self) -> dict[str, Any]:
        """Return the format as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Encoded:
    """An encoded image: a file, or the bytes of one, and its name in messages."""

    data: Path | bytes
    name: str


def read_rgb(encoded: Encoded) -> Image.Image:
    """Return an image in 8-bit RGB.

    Grey, palette and CMYK images are converted, transparency is dropped and 16-bit grey keeps its
    upper byte. As in torchvision, EXIF orientation is not applied.

    Raises:
        UserError: It is not an image, is broken, or its pixel values have no fixed range.
    """
    from PIL import Image, UnidentifiedImageError  # planning does without it

    try:
        source = open_file(data) if isinstance(data := encoded.data, Path) else io.BytesIO(data)
        with source, Image.open(source) as image:
            image.load()
            if image.mode == "RGB":
                return image
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise UserError(
                    f"dataset: {encoded.name}: pixels of 32 bits (mode {image.mode}) have no "
                    "fixed range; save it with 8 bits per channel"
                )
            if image.mode in ("P", "PA"):  # Pillow warns about transparency without this step
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise all kinds on broken files
        text = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnidentifiedImageError):
            text = "not an image"
        if isinstance(error, Image.DecompressionBombError):  # by its head: no memory was taken
            text = "too many pixels"
        reason = text.splitlines()[0][:100] if text else type(error).__name__
        raise UserError(
            f"dataset: {encoded.name}: cannot be read as an image ({reason}); replace or remove it"
        ) from None


def size_of(encoded: Encoded) -> tuple[int, int]:
    """Return the width and height of an image, from its head alone.

    Raises:
        UserError: It is not an image.
    """
    from PIL import Image

    try:
        source = open_file(data) if isinstance(data := encoded.data, Path) else io.BytesIO(data)
        with source, Image.open(source) as image:
            return image.size
    except Exception:  # Pillow's readers raise all kinds; decoding it says which
        raise UserError(f"dataset: {encoded.name}: cannot be read as an image") from None


def resize_image(image: Image.Image, image_format: ImageFormat, name: str) -> np.ndarray:
    """Return an image in a format, as torchvision's Resize and CenterCrop do on PIL images.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: The image is a thin strip, or its size is no multiple of the box filter's.
    """
    from PIL import Image

    size, (width, height) = image_format.size, image.size
    short, long = sorted(image.size)
    if long > LONGEST * short:
        raise UserError(
            f"dataset: {name}: {width} x {height} pixels are too narrow; crop or remove it"
        )
    if image_format.resampling == "box" and (short % size or long % size):
        raise UserError(
            f"dataset: {name}: {width} x {height} pixels are no multiple of {size}; choose another "
            "dataset.image_size"
        )
    if short != size:
        long = int(size * long / short)
        new = (size, long) if width <= height else (long, size)
        image = image.resize(new, Image.Resampling[image_format.resampling.upper()])
    pixels = np.asarray(image)
    return center_crop(pixels, size, size) if image_format.square else pixels


def center_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a view of the centre of an image (H, W, 3), as torchvision's CenterCrop cuts it."""
    top, left = round((pixels.shape[0] - height) / 2.0), round((pixels.shape[1] - width) / 2.0)
    return pixels[top : top + height, left : left + width]


def decode(encoded: Encoded, image_format: ImageFormat) -> np.ndarray:
    """Return an image in a format, (H, W, 3) uint8; raise UserError if it cannot be used."""
    return resize_image(read_rgb(encoded), image_format, encoded.name)


def decode_all(encoded: Iterable[Encoded], image_format: ImageFormat) -> Iterator[np.ndarray]:
    """Decode images in order, with one thread per core; Pillow releases Python's lock.

    Yields:
        Blocks (n, size, size, 3) of square images; else single images (H, W, 3).

    Raises:
        UserError: An image cannot be used: the first one in order.
    """
    from concurrent.futures import ThreadPoolExecutor

    from harness.common.provenance import n_cores

    items = iter(encoded)
    with ThreadPoolExecutor(n_cores()) as pool:
        while chunk := list(islice(items, CHUNK)):
            images = list(pool.map(partial(decode, image_format=image_format), chunk))
            if image_format.square:
                yield np.stack(images)
            else:
                yield from images
