"""A cell: one training run, described by everything that decides its result.

`Cell.as_json` is what cell.json and a bundle's line hold, and what the fingerprint is made of. It
has exactly the fields that were written: what older code left out stays out, and has the default
that every cell had then. A setting that is renamed keeps its key there by a pydantic alias:
`temperature: Positive = Field(4.0, alias="tau1")`. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from harness.common.canonical_json import canonical
from harness.common.errors import UserError, first_error, nearest
from harness.data.views import View
from harness.experiment.optimizer import Optimizer
from harness.experiment.protocol import Protocol
from harness.methods import IMPORTED, SECTIONS, STAGES, SUPERVISED, stage_of
from harness.methods.base import Frozen, Section
from harness.methods.schedules import Schedule
from harness.networks import NetworkOptions
from harness.networks.options import FAMILIES

# Raise it when the same cell would train to different numbers: every older cell becomes stale.
SEMANTICS = 1
# Switches of the protocol that stand beside it in the JSON: those that single stages name.
BESIDE = {switch for stage in STAGES.values() for switch in stage.switches}
M = TypeVar("M", bound=BaseModel)


class CellData(BaseModel):
    """The data of a cell. What else is written (`identity`) says which data set it is.

    Attributes:
        digest: SHA-256 of the whole data set with its split, before the view.
        view: what the cell sees of it.
        without_test: True for tuning, whose processes must not have the test images.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    digest: str
    view: View = View()
    without_test: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """The options of the data set that say what the data are (`DatasetOptions.identity`)."""
        return dict(self.model_extra or {})

    def seen_through(self, view: View) -> CellData:
        """Return these data with a view. `View()`, which keeps all of them, is not written."""
        if view == View():
            return self
        return self.model_copy(update={"view": View.model_validate(view.as_json())})

    def as_json(self) -> dict[str, Any]:
        """Return the data as plain JSON data, with the fields that were written."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class CellConfig(Frozen):
    """Everything that decides a cell's result, beside its kind and its upstream cells.

    Attributes:
        protocol: complete; the switches that are not written do not matter to the cell, or have the
            value that was common to all cells before there was a switch.
        sections: settings by the name of their section (harness.methods.SECTIONS).
        checkpoint: SHA-256 of the published file that an imported teacher comes from.
    """

    data: CellData
    network: SerializeAsAny[NetworkOptions]
    optimizer: Optimizer = Optimizer()
    protocol: Protocol = Protocol()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    sections: dict[str, SerializeAsAny[Section]] = Field(default_factory=dict)
    checkpoint: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CellConfig:
        """Read a config from plain JSON data.

        Raises:
            UserError: a field is missing, unknown or has an impossible value.
        """
        fields = dict(content)
        beside = {name: fields.pop(name) for name in BESIDE if name in fields}
        if isinstance(protocol := fields.get("protocol", {} if beside else None), dict):
            fields["protocol"] = {**protocol, **beside}
        models: dict[str, type[BaseModel]] = {
            "data": CellData,
            "optimizer": Optimizer,
            "protocol": Protocol,
            **SECTIONS,
        }
        parts = {n: parse(models[n], v, n) if n in models else v for n, v in fields.items()}
        if "network" in parts:
            parts["network"] = network_options(parts["network"])
        if sections := {name: parts.pop(name) for name in SECTIONS if name in parts}:
            parts["sections"] = sections
        return parse(cls, parts)

    def as_json(self) -> dict[str, Any]:
        """Return the config as plain JSON data, with the fields that were written."""
        written = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        sections, protocol = written.pop("sections", {}), written.get("protocol", {})
        beside = {name: protocol.pop(name) for name in BESIDE if name in protocol}
        return {**written, **sections, **beside}


def network_options(content: Any) -> NetworkOptions:
    """Read a cell's `network` entry.

    Raises:
        UserError: there is no such network, or it has no such option.
    """
    name = str(content.get("network") if isinstance(content, dict) else content)
    if name not in FAMILIES:
        raise UserError(f"network: unknown {name!r}{nearest(name, FAMILIES)}")
    return parse(FAMILIES[name], content, "network")


def parse(model: type[M], value: Any, name: str = "") -> M:
    """Validate a part of a cell's description.

    Raises:
        UserError: one line that names the field, below `name`.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(first_error(error, model, name)) from None


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        kind: the kind of a stage (harness.methods), or `imported`: a teacher from a published file,
            made by `harness import-checkpoint`.
        upstream: role ("teacher", "initial") -> fingerprint of the cell whose model it takes.
    """

    kind: str
    config: CellConfig
    upstream: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cell:
        """Read a cell from the content of its cell.json, or from its line in a bundle.

        Raises:
            UserError: a setting is missing, unknown or has an impossible value.
        """
        cell = cls(content["kind"], CellConfig.from_json(content["spec"]), content["upstream"])
        if cell.kind != IMPORTED:
            for section in stage_of(cell.kind).all_sections:
                if section not in cell.config.sections:
                    raise UserError(f"{section}: missing; add it")
        return cell

    def as_json(self) -> dict[str, Any]:
        """Return the cell as plain JSON data, the content of its cell.json."""
        return {
            "kind": self.kind,
            "semantics": SEMANTICS,
            "spec": self.config.as_json(),
            "upstream": self.upstream,
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal digits."""
        return hashlib.sha256(canonical(self.as_json()).encode()).hexdigest()

    @property
    def schedule(self) -> Schedule | None:
        """The section that says how long it trains; None where what it fits is found at once."""
        name = None if self.kind == IMPORTED else stage_of(self.kind).schedule
        section = self.config.sections[name] if name else None
        assert section is None or isinstance(section, Schedule)
        return section

    @property
    def epochs(self) -> int:
        """The number of epochs that it trains for."""
        if self.kind == IMPORTED:
            return 0
        return 1 if self.schedule is None else self.schedule.epochs

    @property
    def metric(self) -> str:
        """The metric that the cell measures on the test set (harness.common.metrics)."""
        return metric_of_kind(self.kind)


def metric_of_kind(kind: str) -> str:
    """Return the metric of a cell of this kind on the test set (harness.common.metrics)."""
    return (SUPERVISED if kind == IMPORTED else stage_of(kind)).metric
