"""Which data set a cell needs, by its directory alone. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from harness.cell import CellConfig
from harness.common.errors import UserError, first_error, nearest
from harness.data import DATASETS, Dataset, DatasetOptions, load, using_data_root
from harness.data.views import apply, join_validation
from harness.store import CellDir


@dataclass(frozen=True)
class DataRequest:
    """The data set that a cell needs.

    Attributes:
        with_test: Whether it may have the test images.
        root: Where files are looked for; None for the process's own data root.
        digest: The digest of the data that the cell was planned with.
    """

    options: DatasetOptions
    with_test: bool
    root: str | None
    digest: str

    def load(self) -> Dataset:
        """Load the data set from this machine's files, whatever their digest is now."""
        with using_data_root(self.root):
            return load(self.options, self.with_test, check_pixels=True)


def data_request(directory: CellDir) -> DataRequest:
    """Return the data set that a cell needs.

    Raises:
        UserError: options.json does not describe a data set.
    """
    data, options = directory.cell.config.data, directory.options
    fields = options.dataset or data.identity
    if (name := str(fields.get("name"))) not in DATASETS:
        raise UserError(f"dataset: unknown {name!r}{nearest(name, DATASETS)}")
    model = DATASETS[name]
    try:
        dataset = model.model_validate(fields)
    except ValidationError as error:
        raise UserError(first_error(error, model, "dataset")) from None
    return DataRequest(dataset, not data.without_test, options.data_root, data.digest)


class DatasetCache:
    """The data set of a process's last cell, which its next cell mostly needs, too.

    Attributes:
        last: That data set; None if none was loaded.
    """

    def __init__(self) -> None:
        self._request: DataRequest | None = None
        self.last: Dataset | None = None

    def get(self, request: DataRequest, make: Callable[[], Dataset] | None = None) -> Dataset:
        """Return the cached data set; on a miss, call `make`, or else load it from disk."""
        if self.last is None or self._request != request:
            self.last = None  # memory may not hold two of them
            self.last = (make or request.load)()
            self._request = request
        return self.last


def load_dataset(
    directory: CellDir, config: CellConfig, datasets: DatasetCache | None = None
) -> Dataset:
    """Return the data that a cell trains on and is measured on, seen through its view.

    Raises:
        UserError: The data on this machine are not those that the cell was planned with.
    """
    request = data_request(directory)
    dataset = (datasets or DatasetCache()).get(request)
    if dataset.digest != request.digest:
        raise UserError(
            f"dataset: {request.options.name} on this machine is not the data this cell was "
            "planned with (other digest); plan again here with `harness run`"
        )
    if config.protocol.train_on == "train+validation":
        dataset = join_validation(dataset)
    return apply(dataset, config.data.view)
