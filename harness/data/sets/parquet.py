"""The user's own parquet files of images, as data sets lie on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from harness.common.errors import UserError
from harness.data.assemble import assemble, augmentation_of, image_format_of
from harness.data.dataset import Dataset
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
from harness.data.options import CustomOptions, Files, Location, register_dataset
from harness.data.parquet import Columns, open_files


@register_dataset
class ParquetOptions(CustomOptions):
    """Parquet files with a column of encoded images and a column of class numbers.

    Attributes:
        path: A folder with train*.parquet and test*.parquet, or one file.
        train: The training file or files, in place of `path`.
        test: The test file or files.
        image_column, label_column: Names of the columns; by default the hub's.
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
    def _path_or_train(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path (a folder or a file) or train (files)")
        return self

    def load(self, with_test: bool) -> Dataset:
        """Load the images; without test files, the test part is drawn."""
        tally = Tally()
        train, test = self._find_files(tally)
        columns = Columns(self.image_column, self.label_column)
        image_format = image_format_of(self)
        test_store = None
        if test and with_test:
            test_store = open_files(test, "test", columns, image_format, names_from=train)
        dataset = assemble(
            self,
            augmentation_of(self),
            open_files(train, "train", columns, image_format),
            test_store,
            draw_test=not test,
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
            raise UserError(
                f"dataset.path: no test*.parquet in {path}, but {others[0].name}; name the test "
                "files with dataset.test"
            )
        for file in sorted({*others} - {*test}):
            is_validation = parquet_part(file, path) == VALIDATION
            reason = NOT_DRAWN if is_validation else "neither train*.parquet nor test*.parquet"
            tally.add(reason, file)
        return train, test
