"""The options model of a network family, and the registry of families. Does not import torch."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from harness.networks.pretrained import FIELD, KEY, LocalFile, Weights, is_name

if TYPE_CHECKING:
    from harness.networks.base import Network

Shape = tuple[int, ...]
Dropout = Annotated[float, Field(ge=0, lt=1)]
# Beyond these, a number is a slip or made up, and would fill the memory. ResNet-1202 was published.
MOST_BLOCKS = 200  # a third of a network's
Width = Annotated[int, Field(ge=1, le=64)]


class NetworkOptions(BaseModel):
    """A network of an experiment.

    A subclass narrows `network` to its family's name, which is also the default.

    Attributes:
        network: The name of the family.
        weights: The file of weights that it starts from, without its last layer's; None for random
            ones. Cells call it `pretrained`, and so may experiment files.
        module: The torch module, as "harness.networks.NAME.network:CLASS"; it is imported when a
            network is built. Its arguments are the number of classes and the options.
        n_maps: The number of `Network.feature_maps`; None if it is known once the network is built.
        size: What the numbers of a label are, as the heading of a table.
        names: What its field `name` may be, if it has one.
        is_selectable: Whether an experiment file may name the family.
        plain: Option -> its default for images of one's own, where a publication's data have
            another one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=lambda schema: _add_older_name(schema)
    )
    module: ClassVar[str]
    n_maps: ClassVar[int | None]  # or a property, where networks of a family differ
    size: ClassVar[str] = ""
    names: ClassVar[tuple[str, ...]] = ()
    is_selectable: ClassVar[bool] = True
    plain: ClassVar[Mapping[str, Any]] = {}

    network: str
    weights: Weights | None = Field(default=None, serialization_alias=KEY)

    @model_validator(mode="before")
    @classmethod
    def _find_weights(cls, values: Any) -> Any:
        """Take the older name of the field, and find the file of weights that have a name."""
        if not isinstance(values, dict):
            return values
        values = {FIELD if key == KEY else key: value for key, value in values.items()}
        return cls.with_named_weights(values) if is_name(values.get(FIELD)) else values

    @classmethod
    def with_named_weights(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the options with the path of weights whose name they have, where there are names.

        Raises:
            ValueError: There are no such weights, or their file is not on this machine.
        """
        return values

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out initial weights that are not given, as in cells before there was the field."""
        dumped: dict[str, Any] = handler(self)
        for key in (FIELD, KEY):
            if key in dumped and dumped[key] is None:
                del dumped[key]
        return dumped

    @classmethod
    def has_name(cls, name: str) -> bool:
        """Return whether its field `name` may be this, if it has one."""
        return name in cls.names

    @property
    def files(self) -> tuple[LocalFile, ...]:
        """The files that the network needs."""
        return () if self.weights is None else (self.weights,)

    def located(self, paths: Mapping[str, str]) -> Self:
        """Return the options with the places of their files.

        Args:
            paths: The SHA-256 of a file -> its path on this machine.
        """
        if self.weights is None or self.weights.sha256 not in paths:
            return self
        file = self.weights.model_copy(update={"path": paths[self.weights.sha256]})
        return self.model_copy(update={FIELD: file})

    @property
    def label(self) -> str:
        """The short name in columns, run names and the published CSV files."""
        raise NotImplementedError

    def build(self, n_classes: int) -> Network:
        """Return a network with random weights."""
        network: Network = pkgutil.resolve_name(self.module)(
            n_classes, **self.model_dump(exclude={"network", FIELD})
        )
        return network

    @classmethod
    def fields_of_checkpoint(cls, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """Return the options of a published checkpoint, or None if it is of another family.

        It is known by the shapes in its state dict.
        """
        return None


def _add_older_name(schema: dict[str, Any]) -> None:
    schema["properties"][KEY] = schema["properties"][FIELD]


FAMILIES: dict[str, type[NetworkOptions]] = {}  # all of them, by name
NETWORKS: dict[str, type[NetworkOptions]] = {}  # those that an experiment file may name
Options = TypeVar("Options", bound=NetworkOptions)


def register_network(options: type[Options]) -> type[Options]:
    """Add a family under the default of its `network` field; a class decorator.

    Raises:
        ValueError: Another family has that name.
    """
    name = options.model_fields["network"].default
    if name in FAMILIES:
        raise ValueError(f"two network families are called {name!r}")
    FAMILIES[name] = options
    if options.is_selectable:
        NETWORKS[name] = options
    return options


def check_depth(network: str, depth: int, remainder: int) -> int:
    """Return `depth` if it is 6n + remainder for some n >= 1.

    Raises:
        ValueError: It is not, or is too large; the message names valid depths.
    """
    n, rest = divmod(depth - remainder, 6)
    if n > MOST_BLOCKS:
        raise ValueError(f"{depth} is too deep; use at most {6 * MOST_BLOCKS + remainder}")
    if rest == 0 and n >= 1:
        return depth
    near = str(6 + remainder) if n < 1 else f"{6 * n + remainder} or {6 * (n + 1) + remainder}"
    raise ValueError(f"{depth} is no depth of {network} (6n+{remainder}); use {near}")


def n_blocks(shapes: Mapping[str, Shape], group: str) -> int:
    """Return how many blocks a checkpoint has in a group such as `layer1`."""
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{group}.")})


def n_rows(shapes: Mapping[str, Shape], name: str) -> int:
    """Return the first size of a checkpoint's entry; 0 for a scalar or a missing entry."""
    return next(iter(shapes.get(name, ())), 0)
