"""The user's own parquet files of images, as data sets lie on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from harness.common.errors import UserError
from harness.data.assemble import assemble, augmentation_of, image_format_of
from harness.data.dataset import Dataset
from harness.data.decode import Encoded
from harness.data.listing import NOT_DRAWN, TEST, TRAIN, VALIDATION, Tally
from harness.data.options import CustomOptions, Files, Location, SizeOrFiles, register_dataset
from harness.data.parquet import Columns, encoded_images, n_rows, open_files
from harness.data.parquet_files import all_parquet, parquet_files, parquet_part


@register_dataset
class ParquetOptions(CustomOptions):
    """Parquet files with a column of encoded images and a column of class numbers.

    Attributes:
        path: A folder with train*.parquet and test*.parquet, or one file.
        train: The training file or files, in place of `path`.
        test: The test file or files.
        validation: `files` takes the images of validation*.parquet in `path`.
        image_column, label_column: Names of the columns; by default the hub's.
    """

    location: ClassVar[frozenset[str]] = frozenset(
        {"path", "train", "test", "image_column", "label_column"}
    )

    name: Literal["parquet"] = "parquet"
    path: Location | None = None
    train: Files | None = None
    test: Files | None = None
    validation: SizeOrFiles = 0.1  # type: ignore[assignment]
    image_column: str | None = None
    label_column: str | None = None

    @model_validator(mode="after")
    def _path_or_train(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path (a folder or a file) or train (files)")
        return self

    def some_images(self, most: int) -> list[Encoded]:
        """Return the first training images, at most so many."""
        train, _ = self._find_files(Tally())
        columns = Columns(self.image_column, self.label_column)
        return [*islice(encoded_images(train, columns), most)]

    def load(self, with_test: bool) -> Dataset:
        """Load the images; without test files, the test part is drawn."""
        tally = Tally()
        train, test = self._find_files(tally)
        validation: list[Path] = []
        if is_given := self.validation == "files":
            validation = self._validation_files(has_test=bool(test))
        columns = Columns(self.image_column, self.label_column)
        image_format = image_format_of(self)
        test_store = None
        if test and with_test:
            test_store = open_files(test, "test", columns, image_format, names_from=train)
        # In one store, so that a protocol may join them.
        store = open_files(train + validation, "train", columns, image_format)
        dataset = assemble(
            self,
            augmentation_of(self),
            store,
            test_store,
            draw_test=not test,
            given_validation=np.arange(n_rows(train, columns), len(store.labels))
            if is_given
            else None,
        )
        return replace(dataset, left_out=tally.left_out())

    def _find_files(self, tally: Tally) -> tuple[list[Path], list[Path]]:
        """Return the training and the test files; no test files where the test part is drawn.

        Raises:
            UserError: There is no such folder or file, or it does not say what the files are.
        """
        path, test = self.path, list(self.test or [])
        if path is None:
            return list(self.train or []), test
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
            hint = ""
            if all(parquet_part(file, path) == VALIDATION for file in others):
                if self.validation == "files" and "test_size" in self.model_fields_set:
                    return train, []
                hint = ", or give dataset.validation: files and dataset.test_size: 0.2 to draw some"
            raise UserError(
                f"dataset.path: no test*.parquet in {path}, but {others[0].name}; name the test "
                f"files with dataset.test{hint}"
            )
        for file in sorted({*others} - {*test}):
            is_validation = parquet_part(file, path) == VALIDATION
            if is_validation and self.validation == "files":
                continue
            reason = (
                NOT_DRAWN.format("files")
                if is_validation
                else "neither train*.parquet nor test*.parquet"
            )
            tally.add(reason, file)
        return train, test

    def _validation_files(self, has_test: bool) -> list[Path]:
        """Return the validation files.

        Raises:
            UserError: There are none, or test images would be drawn without being asked for.
        """
        files = parquet_files(self.path, VALIDATION) if self.path and self.path.is_dir() else []
        if not files:
            raise UserError(
                "dataset.validation: no validation*.parquet in dataset.path; add them, or give the "
                "number of images to hold out of the training images"
            )
        if not has_test and "test_size" not in self.model_fields_set:
            raise UserError(
                "dataset.path: no test images; name the files with dataset.test, or give "
                "dataset.test_size: 0.2 to hold some out of the training images"
            )
        return files
