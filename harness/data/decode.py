"""Encoded images of any kind -> uint8 RGB arrays of the wanted size, as torchvision does on PIL."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.common.errors import UserError
from harness.common.provenance import n_cores

CHUNK = 256  # images decoded ahead of the writer
LONGEST = 20  # times the shorter side: beyond, it is hardly a picture, and could fill the memory


@dataclass(frozen=True)
class ImageFormat:
    """How images are kept: the shorter side scaled to `size`; `square` keeps the central square."""

    size: int
    square: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Encoded:
    """data: a file, or a file's bytes; name: what to call it when it cannot be read."""

    data: Path | bytes
    name: str


def rgb(encoded: Encoded) -> Image.Image:
    """The picture in 8-bit RGB. Grey, palette and CMYK are converted, transparency is dropped and
    16-bit grey keeps its upper byte. As in torchvision, EXIF orientation is not applied.

    Raises:
        UserError: no image, or a broken one, or one whose pixel values have no fixed range.
    """
    source = io.BytesIO(encoded.data) if isinstance(encoded.data, bytes) else encoded.data
    try:
        with Image.open(source) as image:
            image.load()
            if image.mode == "RGB":
                return image
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise UserError(
                    f"dataset: {encoded.name}: pixels of 32 bits (mode {image.mode}) have no "
                    "fixed range; save it with 8 bits a channel"
                )
            if image.mode in ("P", "PA"):  # Pillow warns about transparency without this step
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise all kinds on broken files
        text = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = text.splitlines()[0][:100] if text else type(error).__name__
        raise UserError(
            f"dataset: {encoded.name}: cannot be read as an image ({reason}); replace or remove it"
        ) from None


def fitted(image: Image.Image, form: ImageFormat, name: str) -> np.ndarray:
    """(H, W, 3) uint8: torchvision's Resize(size) on PIL images (bilinear, antialiased), then
    CenterCrop(size) if the form is square.

    Raises:
        UserError: the image is a thin strip.
    """
    size, (width, height) = form.size, image.size
    short, long = sorted(image.size)
    if long > LONGEST * short:
        raise UserError(
            f"dataset: {name}: {width} x {height} pixels are too narrow; crop or remove it"
        )
    if short != size:
        long = int(size * long / short)
        new = (size, long) if width <= height else (long, size)
        image = image.resize(new, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return central(pixels, size, size) if form.square else pixels


def central(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The centre of an image (H, W, 3), as torchvision's CenterCrop cuts it out; a view."""
    top, left = round((pixels.shape[0] - height) / 2.0), round((pixels.shape[1] - width) / 2.0)
    return pixels[top : top + height, left : left + width]


def decode(encoded: Encoded, form: ImageFormat) -> np.ndarray:
    return fitted(rgb(encoded), form, encoded.name)


def decode_all(encoded: Iterable[Encoded], form: ImageFormat) -> Iterator[np.ndarray]:
    """Every image in order, decoded by a thread a core (Pillow lets go of Python's lock). Square
    ones come in blocks (n, size, size, 3), others one by one (H, W, 3).

    Raises:
        UserError: of the first image, in order, that cannot be read.
    """
    items = iter(encoded)
    with ThreadPoolExecutor(n_cores()) as pool:
        while chunk := list(islice(items, CHUNK)):
            images = list(pool.map(partial(decode, form=form), chunk))
            if form.square:
                yield np.stack(images)
            else:
                yield from images
