"""Options of networks that are written elsewhere: in a library, or by the user.

Does not import torch, nor the libraries: an experiment is read at once. Whether a library has such
a network, and what it can do, is found out by building it (`harness.networks.check`).
"""

from __future__ import annotations

import contextlib
import pkgutil
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from harness.common.errors import UserError
from harness.networks.options import NetworkOptions
from harness.networks.pretrained import FIELD

if TYPE_CHECKING:
    from harness.networks.base import Network

SIZES = 8, 1024  # the least and the most pixels of an input's side
Size = Annotated[int, Field(ge=SIZES[0], le=SIZES[1])]
Three = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
OWN: Literal["own"] = "own"
DATA: Literal["data"] = "data"
LONGEST_LABEL = 60


class Normalisation(BaseModel):
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: Three
    std: tuple[Positive, Positive, Positive]


class NamedWeights(NamedTuple):
    """Weights that a library has a name for.

    Attributes:
        path: Where their file lies.
        size: The height and width of the images that they were made for.
        mean, std: The normalisation of these.
    """

    path: str
    size: int
    mean: Three
    std: Three


def _size(value: Any) -> Any:
    least, most = SIZES
    is_size = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    if value not in (None, OWN, DATA) and not is_size:
        raise ValueError(f"expected {OWN!r}, {DATA!r} or {least} to {most} pixels")
    return value


def _normalisation(value: Any) -> Any:
    if value in (OWN, DATA) or isinstance(value, Normalisation):
        return value
    try:
        return Normalisation.model_validate(value)
    except ValidationError:
        raise ValueError(
            f"expected {OWN!r}, {DATA!r}, or mean and std of three channels, as in "
            "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
        ) from None


class ForeignOptions(NetworkOptions):
    """A network that is written elsewhere. Fields that are not listed here go to its builder.

    Attributes:
        library: The module whose function `make` makes it (`harness.networks.wrapped.Made`), and
            whose function `find_weights` finds weights by their name.
        has_named_weights: Whether the library has a name for weights.
        stem: `small` makes the first convolution 3x3 with stride 1 and drops the max-pooling after
            it, as for CIFAR.
        input_size: The height and width that images are scaled to for this network: its own, those
            of the data (they are not scaled), or a number of pixels. By default its own, or those
            of the data with a small stem.
        normalisation: Its own, that of the data, or mean and std.
        maps: The modules whose outputs are its maps, from shallow to deep; by default the last ones
            at the four lowest resolutions.
    """

    model_config = ConfigDict(extra="allow")
    module: ClassVar[str] = "harness.networks.wrapped:WrappedNetwork"
    library: ClassVar[str]
    has_named_weights: ClassVar[bool] = True

    stem: Literal["own", "small"] = OWN
    input_size: Annotated[Literal["own", "data"] | Size | None, BeforeValidator(_size)] = None
    normalisation: Annotated[
        Literal["own", "data"] | Normalisation, BeforeValidator(_normalisation)
    ] = OWN
    maps: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @classmethod
    def with_named_weights(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the options with the file of weights of that name, and what it was made for.

        What the options say themselves counts.
        """
        if not cls.has_named_weights or not isinstance(values.get("name"), str):
            return values
        found: NamedWeights = pkgutil.resolve_name(f"{cls.library}:find_weights")(
            values["name"], values[FIELD]
        )
        values = {**values, FIELD: found.path}
        if values.get("normalisation", OWN) == OWN:
            values["normalisation"] = Normalisation(mean=found.mean, std=found.std)
        size = values.get("input_size")
        if size == OWN or (size is None and values.get("stem", OWN) == OWN):
            values["input_size"] = found.size
        return values

    @classmethod
    def has_name(cls, name: str) -> bool:
        """Return whether the library has a network of this name; imports it, if it is there."""
        if "name" not in cls.model_fields:
            return False
        with contextlib.suppress(UserError):
            pkgutil.resolve_name(f"{cls.library}:checked_name")(name)
            return True
        return False

    @property
    def n_maps(self) -> int | None:  # type: ignore[override]
        """The number of `Network.feature_maps`; None if no maps are named."""
        return None if self.maps is None else len(self.maps)

    @property
    def size_of_input(self) -> Literal["own", "data"] | int:
        """The input size, with its default."""
        return self.input_size or (OWN if self.stem == OWN else DATA)

    @property
    def builder_options(self) -> dict[str, Any]:
        """The fields that go to the builder."""
        return dict(self.model_extra or {})

    def labelled(self, name: str) -> str:
        """Return the label of a network of this name, with what makes it another network."""
        words = [name, *(["small"] if self.stem != OWN else [])]
        words += [f"{key}={value}" for key, value in self.builder_options.items()]
        words += ["pretrained"] if self.weights else []
        return re.sub(r"[^\w.=+-]", "", "-".join(words))[:LONGEST_LABEL]

    def build(self, n_classes: int) -> Network:
        """Return a network with random weights.

        Raises:
            UserError: The library has no such network, or it cannot be used here.
        """
        network: Network = pkgutil.resolve_name(self.module)(self, n_classes)
        return network
