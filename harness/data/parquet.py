"""Images in parquet files, as data sets lie on the Hugging Face hub.

One column has encoded images (bytes, or a struct with a field `bytes`), one has class numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Literal

import numpy as np

from harness.common.errors import UserError
from harness.data.assemble import check_range, check_training_classes
from harness.data.cache import Contents, cached_store, file_times
from harness.data.classes import renumber
from harness.data.decode import Encoded, ImageFormat, decode_all
from harness.data.packed import ImageStore

IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("fine_label", "label")  # the hub's names


@dataclass(frozen=True)
class Columns:
    """The names of the columns of images and labels; None for the hub's names."""

    image: str | None = None
    label: str | None = None


def open_files(
    files: Sequence[Path],
    split: Literal["train", "test"],
    columns: Columns,
    image_format: ImageFormat,
    names: Sequence[str] | None = None,
    size: int | None = None,
    names_from: Sequence[Path] | None = None,
    alphabetical: bool = False,
    only: Sequence[str] | None = None,
) -> ImageStore:
    """Return the store of the images in one split's files.

    Args:
        files: The files, in the order of their images.
        split: The split.
        columns: The columns of images and labels.
        image_format: How to store the images.
        names: The names of the classes; None for those in the files, or else numbers.
        size: The number of images that there must be; None for any.
        names_from: Files whose class names say which number a class has; None for `files`. If both
            have names, labels are matched by them.
        alphabetical: Whether classes are numbered in the order of their names, if they have names.
        only: The names of the classes to keep, in the order in which to number them.

    Raises:
        UserError: A file or column is missing or broken, an image cannot be read, or labels are
            wrong.
    """
    place = str(files[0] if len(files) == 1 else files[0].parent)
    source = {
        "path": place,
        "split": split,
        "files": file_times(files),
        "columns": [columns.image, columns.label],
        "form": image_format.as_json(),
        "names": list(names) if names is not None else None,
        "matched": [file_times(names_from) if names_from is not None else None, alphabetical],
        "only": list(only) if only is not None else None,
    }

    def make() -> Contents:
        opened = [_ParquetFile(path, columns) for path in files]
        order, order_source = _class_names(opened)
        is_prescribed = False
        if names_from is not None or alphabetical:
            others = [_ParquetFile(path, columns) for path in names_from or ()]
            prescribed, _ = _class_names(others or opened)
            if prescribed:
                order = sorted(prescribed, key=_alphabetical_key) if alphabetical else prescribed
                order_source, is_prescribed = str((names_from or files)[0]), True
        labels = [file.read_labels(order, order_source) for file in opened]
        if is_prescribed and order and names is not None and len(order) != len(names):
            raise UserError(
                f"dataset.path: {place} names {len(order)} classes, not {len(names)}; for other "
                "data use `name: parquet`"
            )
        starts = np.cumsum([0, *map(len, labels)])
        if size is not None and starts[-1] != size:
            raise UserError(
                f"dataset.path: {place} has {starts[-1]} images, not {size}; for other data use "
                "`name: parquet`"
            )

        def describe_image(i: int) -> str:
            k = int(np.searchsorted(starts, i, side="right")) - 1
            return f"{files[k]}, row {i - starts[k]}"

        all_labels, class_names = np.concatenate(labels), names if names is not None else order
        check_range(all_labels, class_names, place, describe_image)
        images: Iterator[Encoded] = chain.from_iterable(file.read_images() for file in opened)
        if only is not None:
            number = _numbers_of(only, class_names, place)[all_labels]
            images, all_labels = compress(images, number >= 0), number[number >= 0]
            class_names = only
        if split == "train":
            class_names = check_training_classes(all_labels, class_names, place)
        return Contents(decode_all(images, image_format), all_labels, class_names or ())

    return cached_store(source, make)


def encoded_images(files: Sequence[Path], columns: Columns) -> Iterator[Encoded]:
    """Yield the images of files as they lie there.

    Raises:
        UserError: A file is broken, or a row has no image.
    """
    for path in files:
        yield from _ParquetFile(path, columns).read_images()


def n_rows(files: Sequence[Path], columns: Columns) -> int:
    """Return the number of images in files; only their footers are read.

    Raises:
        UserError: One of them cannot be read.
    """
    return sum(_ParquetFile(path, columns).n_rows for path in files)


def _numbers_of(only: Sequence[str], names: Sequence[str] | None, place: str) -> np.ndarray:
    """Return the number of each named class among those to keep, (C,) int64; -1 for the others.

    Raises:
        UserError: The classes have no names, or one to keep is not among them.
    """
    missing = next((name for name in only if name not in (names or ())), None)
    if names is None or missing is not None:
        problem = f"no class {missing!r}" if names else "the files do not name their classes"
        raise UserError(f"dataset: {place}: {problem}; choose other classes or other files")
    number = {name: i for i, name in enumerate(only)}
    return np.asarray([number.get(name, -1) for name in names], np.int64)


def _alphabetical_key(name: str) -> tuple[int, str]:
    """Return a key that sorts names, and numbers that stand in for names by their value."""
    return (int(name), "") if name.isdecimal() else (0, name.casefold())


def _class_names(files: Sequence[_ParquetFile]) -> tuple[list[str] | None, str]:
    """Return the class names of the first file that has some, and its path."""
    for file in files:
        if file.class_names:
            return file.class_names, str(file.path)
    return None, ""


class _ParquetFile:
    """An open file, with its columns and the names of its classes, if it has names."""

    def __init__(self, path: Path, columns: Columns) -> None:
        # Imported here: a data set that lies in the cache does not need it.
        import pyarrow
        import pyarrow.parquet as pq

        self.path, self._read_errors = path, (pyarrow.ArrowException, OSError)
        try:
            self._file = pq.ParquetFile(path)
        except self._read_errors as error:
            reason = str(error).splitlines()[0][:100]
            raise UserError(
                f"dataset: {path}: not a parquet file ({reason}); fetch it again"
            ) from None
        self._schema = self._file.schema_arrow
        self._image_column = self._column(columns.image, IMAGE_COLUMNS, "image")
        self._label_column = self._column(columns.label, LABEL_COLUMNS, "label")
        self.class_names = self._read_class_names()

    @property
    def n_rows(self) -> int:
        """The number of images."""
        return int(self._file.metadata.num_rows)

    def read_labels(self, order: Sequence[str] | None, order_source: str) -> np.ndarray:
        """Return the labels, (N,) int64, as numbers of the classes in `order`.

        Args:
            order: The names of the classes; if there are none, or the file has none, the labels are
                returned as they are.
            order_source: Where the order comes from, for messages.

        Raises:
            UserError: The column does not hold class numbers, or a class is not in the order.
        """
        import pyarrow

        kind = self._schema.field(self._label_column).type
        if not pyarrow.types.is_integer(kind):
            raise UserError(
                f"dataset.label_column: {self._label_column} of {self.path} is {kind}, not whole "
                "numbers; number the classes from 0"
            )
        try:
            column = self._file.read(columns=[self._label_column]).column(self._label_column)
        except self._read_errors as error:
            raise self._broken(error) from None
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise UserError(f"dataset: {self.path}, row {row}: no label; add it or remove the row")
        labels: np.ndarray = column.to_numpy().astype(np.int64)
        names = self.class_names
        if names is None or order is None or not len(labels):
            return labels
        check_range(labels, names, str(self.path), lambda row: f"{self.path}, row {row}")
        return renumber(labels, names, order, str(self.path), order_source)

    def read_images(self) -> Iterator[Encoded]:
        """Yield every image.

        Raises:
            UserError: The file is broken, or a row has no image.
        """
        row, column = 0, self._image_column
        try:
            for batch in self._file.iter_batches(batch_size=512, columns=[column]):
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    name = f"{self.path}, row {row}"
                    if not data:
                        place = value.get("path") if isinstance(value, dict) else None
                        raise UserError(
                            f"dataset: {name}: only the path {place} of an image outside the file; "
                            "write its bytes into the row, or use `name: folder`"
                            if place
                            else f"dataset: {name}: no image; add it or remove the row"
                        )
                    yield Encoded(data, name)
                    row += 1
        except self._read_errors as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> UserError:
        reason = str(error).splitlines()[0][:100]
        return UserError(f"dataset: {self.path}: broken ({reason}); fetch it again")

    def _column(self, given: str | None, usual: Sequence[str], kind: str) -> str:
        """Return the name of the column of images or of labels.

        Raises:
            UserError: There is no such column, or it does not hold images.
        """
        import pyarrow.types as types

        names = self._schema.names
        twice = next((c for c in names if names.count(c) > 1), None)
        if twice is not None:
            raise UserError(f"dataset: {self.path}: two columns are called {twice!r}; rename one")
        name = given or next((c for c in usual if c in names), None)
        if name is None or name not in names:
            missing = f"no column {given!r}" if given else f"no column {' or '.join(usual)}"
            raise UserError(
                f"dataset.{kind}_column: {missing} in {self.path}; it has: {', '.join(names)}"
            )
        column_type = value_type = self._schema.field(name).type
        if types.is_struct(column_type) and column_type.get_field_index("bytes") >= 0:
            value_type = column_type.field("bytes").type
        if kind == "image" and not (
            types.is_binary(value_type) or types.is_large_binary(value_type)
        ):
            raise UserError(
                f"dataset.image_column: {name} of {self.path} is {column_type}, not encoded "
                "images; write their files' bytes"
            )
        return name

    def _read_class_names(self) -> list[str] | None:
        """Return the names that the `datasets` package writes beside its columns, if it did."""
        try:
            info = json.loads((self._schema.metadata or {})[b"huggingface"])
            names = info["info"]["features"][self._label_column]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        return [str(n) for n in names] if isinstance(names, list) and names else None
