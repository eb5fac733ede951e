"""The options model of a data set, the types of its fields, and the registry of data sets.

Some fields say where the data lie (`location`), the others what they are. Only the latter are part
of a cell's fingerprint: data may move to another folder without anything being trained anew.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from harness.data.dataset import Dataset
    from harness.data.decode import Encoded


def as_number(value: Any) -> Any:
    """Return a number that is written as text ("1e-1") as a float, and anything else unchanged."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]{1,20}([eE][-+]?[0-9]{1,3})?", value):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _absolute(path: Path) -> Path:
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


def _size_or(word: str) -> Callable[[Any], Any]:
    """Return a validator of a size, or of the word for parts that come with the data."""

    def read(value: Any) -> Any:
        try:
            return value if value == word else _size(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {word!r} for those that come with the data") from None

    return read


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


PATH_FIELDS = ("path", "train", "test")  # they hold a path where they hold text
FILE_FIELDS = ("classes",)  # they may hold the path of a .txt file


def resolve_paths(dataset: Any, folder: Path) -> Any:
    """Return the `dataset` entry of an experiment file with relative paths taken from `folder`."""
    if not isinstance(dataset, dict):
        return dataset

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if isinstance(value, str) and not value.startswith("~"):
            return str(folder / value)
        return value

    def is_path(key: str, value: Any) -> bool:
        return key in PATH_FIELDS or (key in FILE_FIELDS and str(value).endswith(".txt"))

    return {key: resolve(value) if is_path(key, value) else value for key, value in dataset.items()}


Count = Annotated[int, Field(ge=1)]
# A number of images or a share of them: `validation: 5000` and `validation: 0.1` are both clear.
Size = Annotated[int | float, BeforeValidator(_size)]
SizeOrFolder = Annotated[int | float | Literal["folder"], BeforeValidator(_size_or("folder"))]
SizeOrFiles = Annotated[int | float | Literal["files"], BeforeValidator(_size_or("files"))]
# Relative paths are resolved here, or by `resolve_paths` for those in a file: a cell may run in
# another working directory.
Location = Annotated[Path, AfterValidator(_absolute)]
Files = Annotated[tuple[Location, ...], BeforeValidator(_as_list), Field(min_length=1)]
Label = Annotated[str, Field(pattern=r"^\w[\w .,()+-]*$", max_length=60)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Spread = Annotated[float, Field(gt=0, le=1)]
Mean = tuple[_Fraction, _Fraction, _Fraction] | None
Std = tuple[_Spread, _Spread, _Spread] | None


class DatasetOptions(BaseModel):
    """The data set of an experiment.

    A subclass narrows `name` to its registry name, which is also the default.

    Attributes:
        location: The fields that only say where the data lie.
        test_is_drawn: Whether the data come without an official test split.
        name: The registry name.
        label: The name in tables and in MLflow; it changes no number and is not part of the
            identity.
        validation: The size of the validation part, held out of the training images and stratified
            by class: a whole number counts images, a number below 1 is a share.
        split_seed: The seed of every split that is drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    location: ClassVar[frozenset[str]] = frozenset()
    test_is_drawn: ClassVar[bool] = False

    name: str
    label: Label
    validation: Size = 0.1
    split_seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0

    def identity(self) -> dict[str, Any]:
        """Return the options that say which data these are, but not where, as plain JSON data.

        With the digest of the images, a cell's fingerprint depends on nothing else of the data.
        """
        return self.model_dump(mode="json", exclude={*self.location, "label"})

    def some_images(self, most: int) -> list[Encoded]:
        """Return at most so many training images as they lie on the disk.

        Returns:
            Nothing for a published data set, whose sizes are known.

        Raises:
            UserError: Files are missing or broken.
        """
        return []

    def load(self, with_test: bool) -> Dataset:
        """Load the data; call this through `harness.data.load`.

        Args:
            with_test: If False, test images in files of their own are not opened.

        Raises:
            UserError: Files are missing or broken, or the split does not fit.
        """
        raise NotImplementedError


class ImageOptions(DatasetOptions):
    """A data set in files.

    Attributes:
        mean, std: Normalisation of pixels scaled to [0, 1]; by default those of the training
            images.
    """

    mean: Mean = None
    std: Std = None

    @model_validator(mode="after")
    def _mean_with_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        return self


class PublishedOptions(ImageOptions):
    """A published data set in a folder `path`, which is downloaded if it is not there."""

    location: ClassVar[frozenset[str]] = frozenset({"path"})

    @classmethod
    def find(cls) -> Path | None:
        """Return the folder that already holds the data, or None; download nothing."""
        raise NotImplementedError


def _default_image_size(fields: dict[str, Any]) -> int:
    return 224 if fields.get("augmentation") == "resized-crop" else 32


def _default_padding(fields: dict[str, Any]) -> int:
    size: int = fields.get("image_size", 32)
    return size // 8 if fields.get("augmentation") == "crop" else 0


class CustomOptions(ImageOptions):
    """The user's own images.

    Attributes:
        test_size: The size of the test part where the data come without a test split.
        augmentation: `crop` shifts by up to `padding` black pixels; `resized-crop` is torchvision's
            RandomResizedCrop; `none`.
        image_size: Height and width of the images that a network gets: 32 by default, or 224 with
            `resized-crop`.
        padding: An eighth of the image size by default: CIFAR's 4 of 32.
        flip: Whether half of the training images are mirrored.
        label: By default the name of the folder or file.
    """

    test_is_drawn: ClassVar[bool] = True

    test_size: Size = 0.2
    augmentation: Literal["crop", "resized-crop", "none"] = "crop"
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(default_factory=_default_image_size)
    padding: Annotated[int, Field(ge=0, le=512)] = Field(default_factory=_default_padding)
    flip: bool = Field(default_factory=lambda fields: fields.get("augmentation") != "none")

    @model_validator(mode="before")
    @classmethod
    def _label_from_path(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "label" in values:
            return values
        place = values.get("path") or values.get("train")
        if isinstance(place, list | tuple) and place:
            place = place[0]
        if not isinstance(place, str | Path):
            return values | {"label": str(values.get("name"))}
        # For `train: DIR/train.parquet`, the folder's name says more.
        named = Path(place).parent if values.get("path") is None else Path(place)
        stem = named.stem if named.suffix == ".parquet" else Path(os.path.abspath(named)).name
        clean = re.sub(r"[^\w.+-]", "-", stem)[:60].lstrip(".+-")
        return values | {"label": clean or str(values.get("name"))}

    @model_validator(mode="after")
    def _padding_is_for_crops(self) -> Self:
        if self.padding and self.augmentation != "crop":
            raise ValueError(f"padding belongs to augmentation 'crop', not {self.augmentation!r}")
        return self


DATASETS: dict[str, type[DatasetOptions]] = {}  # by name
Options = TypeVar("Options", bound=DatasetOptions)


def register_dataset(options: type[Options]) -> type[Options]:
    """Add a data set under the default of its `name` field; a class decorator.

    Raises:
        ValueError: Another data set has that name.
    """
    name = options.model_fields["name"].default
    if name in DATASETS:
        raise ValueError(f"two data sets are called {name!r}")
    DATASETS[name] = options
    return options
