"""Which data set a cell wants, by its directory alone. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from harness.common.errors import UserError, first_error
from harness.data import DATASETS, DatasetOptions
from harness.store import CellDir


@dataclass(frozen=True)
class DataRequest:
    """options, with_test: as `harness.data.load` takes them; root: where files are looked for, None
    for the process's own; digest: of the data that the cell was planned with."""

    options: DatasetOptions
    with_test: bool
    root: str | None
    digest: str


def data_request(directory: CellDir) -> DataRequest:
    """
    Raises:
        UserError: options.json does not describe a data set.
    """
    data, here = directory.cell.config.data, directory.options
    fields = here.get("dataset") or data.identity
    model = DATASETS[fields["name"]]
    try:
        chosen = model.model_validate(fields)
    except ValidationError as error:
        raise UserError(first_error(error, model, "dataset")) from None
    return DataRequest(chosen, not data.without_test, here.get("data_root"), data.digest)
