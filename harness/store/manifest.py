"""The content of a cell's manifest.json and options.json. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.data import data_root
from harness.experiment.experiment import Experiment


class JsonFile(BaseModel):
    """The content of a JSON file; it is written with the fields that were set."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    def as_json(self) -> dict[str, Any]:
        """Return the content as plain JSON data."""
        return self.model_dump(mode="json", exclude_unset=True)


class Manifest(JsonFile):
    """The results of a finished cell and where they come from.

    The fields without a default are in every manifest; older ones lack some of the others.

    Attributes:
        results: Metric -> selection rule -> value on the test set.
        selected_epoch: The epoch whose weights are in model.pt, from 1; 0 for an imported teacher.
        seconds: The time of all epochs, without their evaluation.
        evaluation_seconds: The time of all evaluations.
        parameters: The number of the network's parameters.
        data: Name, digest and sizes of the data that the cell saw.
        threads, processor: One value, or a list if the cell was resumed elsewhere.
        attempts: How often the training was started.
        commits: The commits of the code that trained it.
        dirty: Whether the code had uncommitted changes; None if that is unknown.
        imported: The published file that an imported teacher comes from.
    """

    results: dict[str, dict[str, float]]
    selected_epoch: int
    epochs: int
    seconds: float
    model_sha256: str
    data: dict[str, Any]
    device: str
    commits: list[str]
    dirty: bool | None
    torch: str
    python: str | None = None
    evaluation_seconds: float | None = None
    parameters: int | None = None
    threads: int | list[int] | None = None
    processor: str | list[str] | None = None
    attempts: int | None = None
    imported: dict[str, Any] | None = None


def any_dirty(states: Collection[bool | None]) -> bool | None:
    """Return whether the code of one of some attempts had changes; None if that is unknown."""
    return True if True in states else None if None in states else False


class CellOptions(JsonFile):
    """The facts that a training needs about the machine it runs on.

    Attributes:
        dataset: The options of the data set, with the place of its files.
        data_root: Where data sets without a place are looked for.
        n_workers: The worker processes of each loader.
        pretrained: The SHA-256 of each file that a network needs (weights, source) -> its path.
        teacher_cache: The bytes that the teachers' outputs may take in the store; 0 caches none.
        cells_per_device: The cells that may train on one device at once.
        graphs: Whether steps on a GPU are CUDA graphs: on, off, or auto, if that keeps the bits.
    """

    dataset: dict[str, Any] | None = None
    data_root: str | None = None
    n_workers: int = 0
    teacher_cache: int = 0
    cells_per_device: int = 1
    graphs: Literal["auto", "on", "off"] = "auto"
    pretrained: dict[str, str] = Field(default_factory=dict)

    @staticmethod
    def on_this_machine(experiment: Experiment, **others: Any) -> CellOptions:
        """Return the options of cells whose data lie on this machine; `others` are more of them."""
        return CellOptions(
            **others,
            dataset=experiment.dataset.model_dump(mode="json"),
            data_root=str(data_root()),
            pretrained={
                file.sha256: file.path
                for network in experiment.networks
                for file in network.files
                if file.path
            },
        )
