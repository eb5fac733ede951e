"""What an experiment file may say about its data: one model a data set. Imports neither torch nor
numpy, and touches no file.

Some fields say where the data lie (`location`), the others what they are. Only the latter take
part in a cell's fingerprint: data may move to another folder without training anything anew.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

Channels = tuple[float, float, float]
Count = Annotated[int, Field(ge=1)]

CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CUB_LABEL = "cub200"


def as_number(value: Any) -> Any:
    """A number that is written as text ("1e-1"), as every other numeric field takes it."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]{1,20}([eE][-+]?[0-9]{1,3})?", value):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _place(path: Path) -> Path:
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError:
        raise ValueError("no such user's home folder; write the whole path") from None


def _size(value: Any) -> int | float:
    value = as_number(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if value >= 1 and value == int(value):
            return int(value)
        if 0 < value < 1:
            return value
    raise ValueError("expected a number of images (1, 2, ...) or a share of them (between 0 and 1)")


def _files(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


PATHS = ("path", "train", "test")  # fields that hold a place, where they hold text


def resolve_paths(dataset: Any, folder: Path) -> Any:
    """What an experiment file says of its data, with its paths relative to the file's folder."""
    if not isinstance(dataset, dict):
        return dataset

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(item) for item in value]
        if isinstance(value, str) and not value.startswith("~"):
            return str(folder / value)
        return value

    return {key: of(value) if key in PATHS else value for key, value in dataset.items()}


# Images, or a share of them: `validation: 5000` and `validation: 0.1` are both clear.
Size = Annotated[int | float, BeforeValidator(_size)]
# Relative paths are resolved here, or by `resolve_paths` for those in a file: a cell may run in
# another working directory.
Location = Annotated[Path, AfterValidator(_place)]
Files = Annotated[tuple[Location, ...], BeforeValidator(_files), Field(min_length=1)]
Label = Annotated[str, Field(pattern=r"^\w[\w .,()+-]*$", max_length=60)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


class DatasetOptions(BaseModel):
    """What holds for every data set.

    label: its name in tables and in MLflow; changes no number, so it is no part of the identity.
    validation: held out of the training images, stratified by class: a whole number counts
    images, a number below 1 is a share. split_seed: of every split that is drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    location: ClassVar[frozenset[str]] = frozenset()  # fields that only say where the data lie

    name: str
    label: Label
    validation: Size = 0.1
    split_seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0

    def identity(self) -> dict[str, Any]:
        """What the data are, as plain JSON data, without where they lie: with the digest of the
        images, all of the data that a cell's fingerprint depends on."""
        return self.model_dump(mode="json", exclude={*self.location, "label"})


class DigitsOptions(DatasetOptions):
    """scikit-learn's 1,797 digits; they come without an official test split, so `test` makes one.
    What is neither validation nor test is for training."""

    name: Literal["digits"] = "digits"
    # Always the same, so it need not be stored; the digits' options are as they were before labels.
    label: Literal["digits"] = Field(default="digits", exclude=True)
    validation: Count = 297
    test: Count = 500


class ImageOptions(DatasetOptions):
    """Data in files. mean, std: of pixels scaled to [0, 1], subtracted and divided by; left out,
    they are those of the training images."""

    mean: tuple[Fraction, Fraction, Fraction] | None = None
    std: tuple[Spread, Spread, Spread] | None = None

    @model_validator(mode="after")
    def _mean_with_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        return self


class CifarOptions(ImageOptions):
    """path: a folder that holds torchvision's layout or the Hugging Face hub's parquet files.
    Left out, both are looked for in the data root, and else the archive is fetched."""

    location: ClassVar[frozenset[str]] = frozenset({"path"})
    validation: Size = 5000
    path: Location | None = None


class Cifar10Options(CifarOptions):
    """50,000 training and 10,000 test images of 10 classes."""

    name: Literal["cifar10"] = "cifar10"
    label: Label = "cifar10"


class Cifar100Options(CifarOptions):
    """50,000 training and 10,000 test images of 100 classes; the releases' mean and std."""

    name: Literal["cifar100"] = "cifar100"
    label: Label = "cifar100"
    mean: tuple[Fraction, Fraction, Fraction] | None = CIFAR100_MEAN
    std: tuple[Spread, Spread, Spread] | None = CIFAR100_STD


class FashionMnistOptions(ImageOptions):
    """60,000 training and 10,000 test images of 10 classes of clothes.

    path: a folder that holds the four files, or torchvision's FashionMNIST/raw with them; left
    out, they are looked for in the data root, then where Debian's package puts them, and else
    fetched. image_size: 28 as published; 14, means of 2 x 2 pixels; 16, the same with two black
    pixels on each side. train: so many of the training images alone; left out, all.
    """

    location: ClassVar[frozenset[str]] = frozenset({"path"})
    name: Literal["fashion_mnist"] = "fashion_mnist"
    label: Label = "fashion-mnist"
    validation: Size = 5000
    train: Count | None = None
    image_size: Literal[28, 14, 16] = 28
    path: Location | None = None


class CubOptions(ImageOptions):
    """CUB-200-2011 in its original layout and split. path: the folder that holds images.txt; left
    out, CUB_200_2011 in the data root, fetched if it is not there."""

    location: ClassVar[frozenset[str]] = frozenset({"path"})
    name: Literal["cub200"] = "cub200"
    label: Label = CUB_LABEL
    image_size: Annotated[int, Field(ge=8, le=1024)] = 224
    mean: tuple[Fraction, Fraction, Fraction] | None = IMAGENET_MEAN
    std: tuple[Spread, Spread, Spread] | None = IMAGENET_STD
    path: Location | None = None


def _default_image_size(fields: dict[str, Any]) -> int:
    return 224 if fields.get("augmentation") == "resized-crop" else 32


def _default_padding(fields: dict[str, Any]) -> int:
    size: int = fields.get("image_size", 32)
    return size // 8 if fields.get("augmentation") == "crop" else 0


class OwnOptions(ImageOptions):
    """Your own images.

    augmentation: `crop` shifts by up to `padding` black pixels (an eighth of the image by default,
    CIFAR's 4 of 32); `resized-crop` is torchvision's RandomResizedCrop; `none`.
    flip: mirror half of the training images. image_size: of the images a network sees, 32 by
    default, or 224 with resized-crop. test_size: what is held out for the test where the data come
    without a test split. label: the folder's or file's name by default.
    """

    test_size: Size = 0.2
    augmentation: Literal["crop", "resized-crop", "none"] = "crop"
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(default_factory=_default_image_size)
    padding: Annotated[int, Field(ge=0, le=512)] = Field(default_factory=_default_padding)
    flip: bool = Field(default_factory=lambda fields: fields.get("augmentation") != "none")

    @model_validator(mode="before")
    @classmethod
    def _label_from_place(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "label" in values:
            return values
        place = values.get("path") or values.get("train")
        if isinstance(place, list | tuple) and place:
            place = place[0]
        if not isinstance(place, str | Path):
            return values | {"label": str(values.get("name"))}
        # Of `train: DIR/train.parquet` the folder's name, which says more.
        named = Path(place).parent if values.get("path") is None else Path(place)
        stem = named.stem if named.suffix == ".parquet" else Path(os.path.abspath(named)).name
        clean = re.sub(r"[^\w.+-]", "-", stem)[:60].lstrip(".+-")
        return values | {"label": clean or str(values.get("name"))}

    @model_validator(mode="after")
    def _padding_is_for_crops(self) -> Self:
        if self.padding and self.augmentation != "crop":
            raise ValueError(f"padding belongs to augmentation 'crop', not {self.augmentation!r}")
        return self


class FolderOptions(OwnOptions):
    """Folders of image files: path/train/CLASS/* and path/test/CLASS/*, or path/CLASS/*."""

    location: ClassVar[frozenset[str]] = frozenset({"path"})
    name: Literal["folder"] = "folder"
    path: Location


class ParquetOptions(OwnOptions):
    """Parquet files with a column of encoded images and a column of class numbers.

    path: a folder with train*.parquet and test*.parquet, or one file. Or name the files: `train`
    and `test`, one or a list. The columns are found by the hub's names, or named here.
    """

    location: ClassVar[frozenset[str]] = frozenset(
        {"path", "train", "test", "image_column", "label_column"}
    )
    name: Literal["parquet"] = "parquet"
    path: Location | None = None
    train: Files | None = None
    test: Files | None = None
    image_column: str | None = None
    label_column: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path (a folder or a file) or train (files)")
        return self
