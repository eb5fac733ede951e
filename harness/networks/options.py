"""The options model of a network family, and the registry of families. Does not import torch."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from harness.networks.pretrained import FIELD, Pretrained

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
        pretrained: The file of weights that it starts from, without its last layer's; None for
            random ones.
        module: The torch module, as "harness.networks.NAME.network:CLASS"; it is imported when a
            network is built. Its arguments are the number of classes and the options.
        n_maps: The number of `Network.feature_maps`.
        size: What the numbers of a label are, as the heading of a table.
        names: What its field `name` may be, if it has one.
        is_selectable: Whether an experiment file may name the family.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    module: ClassVar[str]
    n_maps: ClassVar[int]  # or a property, where networks of a family differ
    size: ClassVar[str] = ""
    names: ClassVar[tuple[str, ...]] = ()
    is_selectable: ClassVar[bool] = True

    network: str
    pretrained: Pretrained | None = None

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out initial weights that are not given, as in cells before there was the field."""
        dumped: dict[str, Any] = handler(self)
        if dumped.get(FIELD) is None:
            dumped.pop(FIELD, None)
        return dumped

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
