"""Images in parquet files, as data sets lie on the Hugging Face hub: a column of encoded images
(bytes, or a struct with a field `bytes`) and a column of class numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.common.errors import UserError
from harness.data import Dataset
from harness.data.assemble import (
    assemble,
    augmentation_of,
    check_range,
    check_training_classes,
    form_of,
)
from harness.data.cache import Contents, cached, file_times
from harness.data.classes import in_order_of
from harness.data.decode import Encoded, ImageFormat, decode_all
from harness.data.listing import (
    NOT_DRAWN,
    TEST,
    TRAIN,
    VALIDATION,
    Tally,
    all_parquet,
    parquet_files,
    parquet_part,
)
from harness.data.options import ParquetOptions
from harness.data.packed import ImageStore

IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("fine_label", "label")


@dataclass(frozen=True)
class Columns:
    """None: found by the hub's usual names."""

    image: str | None = None
    label: str | None = None


def load(options: ParquetOptions, with_test: bool = True) -> Dataset:
    """with_test: False leaves the test files unopened.

    Raises:
        UserError: no such files or columns, an image that cannot be read, wrong labels, or a split
            that leaves a class empty.
    """
    left = Tally()
    train, test = find_files(options, left)
    columns = Columns(options.image_column, options.label_column)
    form = form_of(options)
    dataset = assemble(
        options,
        augmentation_of(options),
        open_files(train, "train", columns, form),
        open_files(test, "test", columns, form, like=train) if test and with_test else None,
        draw_test=not test,
    )
    return replace(dataset, left_out=left.lines())


def find_files(options: ParquetOptions, left: Tally) -> tuple[list[Path], list[Path]]:
    """The training and the test files; no test files where the test images are to be drawn."""
    path, test = options.path, list(options.test or [])
    if path is None:
        return list(options.train or []), test
    if path.is_file():
        return [path], test
    if not path.is_dir():
        raise UserError(f"dataset.path: no folder or file {path}; correct the path")
    train = parquet_files(path, TRAIN)
    others = sorted({*all_parquet(path)} - {*train, *test})
    if not train and len(others) == 1:
        return others, test
    if not train:
        raise UserError(
            f"dataset.path: no train*.parquet in {path}; name the files with dataset.train"
        )
    test = test or parquet_files(path, TEST)
    if others and not test:
        raise UserError(
            f"dataset.path: no test*.parquet in {path}, but {others[0].name}; name the test files "
            "with dataset.test"
        )
    for file in sorted({*others} - {*test}):
        is_validation = parquet_part(file, path) == VALIDATION
        left.add(NOT_DRAWN if is_validation else "neither train*.parquet nor test*.parquet", file)
    return train, test


def open_files(
    files: Sequence[Path],
    split: Literal["train", "test"],
    columns: Columns,
    form: ImageFormat,
    names: Sequence[str] | None = None,
    size: int | None = None,
    like: Sequence[Path] | None = None,
    alphabetical: bool = False,
) -> ImageStore:
    """The store of one split's files.

    Args:
        files: in the order of their images.
        split: which one it is.
        columns: which ones hold images and labels.
        form: how to keep the images.
        names: of the classes; None for what the files say, or else the numbers.
        size: how many images there must be; None for any number.
        like: files whose names say which number a class has; None for `files` themselves. Where
            both have names, labels are matched by them.
        alphabetical: the number of a class is its name's place in the alphabet, if it has a name.

    Raises:
        UserError: as `load`.
    """
    where = str(files[0] if len(files) == 1 else files[0].parent)
    source = {
        "path": where,
        "split": split,
        "files": file_times(files),
        "columns": [columns.image, columns.label],
        "form": form.as_json(),
        "names": list(names) if names is not None else None,
        "matched": [file_times(like) if like is not None else None, alphabetical],
    }

    def make() -> Contents:
        order = None
        if like is not None or alphabetical:
            order = _Part(like or files, columns, named=True).class_names
            order = sorted(order, key=_alphabet) if order and alphabetical else order
        part = _Part(files, columns, order, str((like or files)[0]))
        if order and names is not None and len(order) != len(names):
            raise UserError(
                f"dataset.path: {where} names {len(order)} classes, not {len(names)}; for other "
                "data use `name: parquet`"
            )
        n, known = len(part.labels), names if names is not None else part.class_names
        if size is not None and n != size:
            raise UserError(
                f"dataset.path: {where} has {n} images, not {size}; for other data use "
                "`name: parquet`"
            )
        check_range(part.labels, known, where, part.place)
        if split == "train":
            known = check_training_classes(part.labels, known, where)
        return Contents(decode_all(part.images(), form), part.labels, known or ())

    return cached(source, make)


def _alphabet(name: str) -> tuple[int, str]:
    """Sorts names, and numbers that stand for names by their value."""
    return (int(name), "") if name.isdecimal() else (0, name.casefold())


class _Part:
    """The files of one split, their labels read.

    class_names: of the first file that names its classes; every label numbers these, or those of
    `order`, whatever numbers its own file has for them. named: read these alone, and no label.
    """

    def __init__(
        self,
        files: Sequence[Path],
        columns: Columns,
        order: Sequence[str] | None = None,
        first: str = "",
        named: bool = False,
    ) -> None:
        # Imported here: a data set that lies in the cache needs neither.
        import pyarrow
        import pyarrow.parquet as pq

        self.files: list[tuple[Path, Any]] = []
        for path in files:
            try:
                self.files.append((path, pq.ParquetFile(path)))
            except (pyarrow.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0][:100]
                raise UserError(
                    f"dataset: {path}: not a parquet file ({reason}); fetch it again"
                ) from None
        self.broken = (pyarrow.ArrowException, OSError)
        self.image_columns = [
            _column(path, file, columns.image, IMAGE_COLUMNS, "image") for path, file in self.files
        ]
        own = [
            _class_names(file, _column(path, file, columns.label, LABEL_COLUMNS, "label"))
            for path, file in self.files
        ]
        known = [(names, str(path)) for names, path in zip(own, files, strict=True) if names]
        self.class_names: list[str] | None = None
        self.first = ""
        if known:
            self.class_names, self.first = known[0]
        if named:
            return
        if order is not None:
            self.class_names, self.first = list(order), first
        labels = [
            self._labels(path, file, columns, names)
            for (path, file), names in zip(self.files, own, strict=True)
        ]
        self.starts = np.cumsum([0, *map(len, labels)])
        self.labels = np.concatenate(labels) if labels else np.empty(0, np.int64)

    def place(self, i: int) -> str:
        """Image i of the split as file and row."""
        k = int(np.searchsorted(self.starts, i, side="right")) - 1
        return f"{self.files[k][0]}, row {i - self.starts[k]}"

    def _labels(
        self, path: Path, file: Any, columns: Columns, own: Sequence[str] | None
    ) -> np.ndarray:
        """(N,) int64 of one file. own: the names of its classes, if it has some."""
        import pyarrow

        name = _column(path, file, columns.label, LABEL_COLUMNS, "label")
        kind = file.schema_arrow.field(name).type
        if not pyarrow.types.is_integer(kind):
            raise UserError(
                f"dataset.label_column: {name} of {path} is {kind}, not whole numbers; number the "
                "classes from 0"
            )
        try:
            column = file.read(columns=[name]).column(name)
        except self.broken as error:
            raise UserError(_broken(path, error)) from None
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise UserError(f"dataset: {path}, row {row}: no label; add it or remove the row")
        labels: np.ndarray = column.to_numpy().astype(np.int64)
        if own is None or self.class_names is None or not len(labels):
            return labels
        check_range(labels, own, str(path), (str(path) + ", row {}").format)
        return in_order_of(self.class_names, labels, own, str(path), self.first)

    def images(self) -> Iterator[Encoded]:
        """Every image, as it is encoded."""
        for (path, file), name in zip(self.files, self.image_columns, strict=True):
            row = 0
            try:
                for batch in file.iter_batches(batch_size=512, columns=[name]):
                    for value in batch.column(0).to_pylist():
                        data = value.get("bytes") if isinstance(value, dict) else value
                        where = f"{path}, row {row}"
                        if not data:
                            raise UserError(f"dataset: {where}: no image; add it or remove the row")
                        yield Encoded(data, where)
                        row += 1
            except self.broken as error:
                raise UserError(_broken(path, error)) from None


def _broken(path: Path, error: Exception) -> str:
    return f"dataset: {path}: broken ({str(error).splitlines()[0][:100]}); fetch it again"


def _column(path: Path, file: Any, given: str | None, usual: Sequence[str], what: str) -> str:
    """
    Raises:
        UserError: no such column, or not one of images.
    """
    import pyarrow.types as types

    schema = file.schema_arrow
    twice = next((c for c in schema.names if schema.names.count(c) > 1), None)
    if twice is not None:
        raise UserError(f"dataset: {path}: two columns are called {twice!r}; rename one")
    name = given or next((c for c in usual if c in schema.names), None)
    if name is None or name not in schema.names:
        missing = f"no column {given!r}" if given else f"no column {' or '.join(usual)}"
        raise UserError(
            f"dataset.{what}_column: {missing} in {path}; it has: {', '.join(schema.names)}"
        )
    kind = schema.field(name).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if what == "image" and not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise UserError(
            f"dataset.image_column: {name} of {path} is {schema.field(name).type}, not encoded "
            "images; write their files' bytes"
        )
    return name


def _class_names(file: Any, column: str) -> list[str] | None:
    """The names that `datasets` writes beside its columns, if it did."""
    try:
        info = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = info["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(n) for n in names] if isinstance(names, list) and names else None
