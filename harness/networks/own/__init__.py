"""Options of a network of the user's own, in a Python file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from harness.networks.foreign import DATA, ForeignOptions
from harness.networks.options import register_network
from harness.networks.pretrained import DIGEST, LocalFile

DEFAULT_SIZE = 32  # of the images with which its layers are looked at


class Definition(BaseModel):
    """A class or function of a Python file.

    Attributes:
        file: the file.
        name: of the class or function.
    """

    model_config = ConfigDict(frozen=True)

    file: LocalFile
    name: str

    def __str__(self) -> str:
        """Return it as FILE:NAME."""
        return f"{Path(self.file.path).name if self.file.path else '..'}:{self.name}"


def _parse(value: Any) -> Any:
    if isinstance(value, Definition):
        return value
    path, _, name = str(value).rpartition(":")
    if not path or not name.isidentifier():
        raise ValueError("not a class of a file; write FILE.py:NAME, as in my_nets.py:MyNet")
    if re.fullmatch(DIGEST, path):
        return Definition(file=LocalFile(sha256=path), name=name)
    return Definition(file=LocalFile.at(Path(path)), name=name)


@register_network
class OwnOptions(ForeignOptions):
    """Options of a network of the user's own.

    Cells and fingerprints have the digest of the file, not its path.

    Attributes:
        path: FILE.py:NAME of a class, or of a function that returns a module. It is called with
            `num_classes` and the options that are not listed in ForeignOptions.
    """

    library: ClassVar[str] = "harness.networks.own.network"
    has_named_weights: ClassVar[bool] = False

    network: Literal["import"] = "import"
    path: Annotated[
        Definition,
        BeforeValidator(_parse),
        PlainSerializer(lambda it: f"{it.file.sha256}:{it.name}", return_type=str),
        WithJsonSchema({"type": "string", "pattern": r"^.+:\w+$"}),
    ]

    @property
    def label(self) -> str:
        """The short name of the network."""
        return self.labelled(self.path.name)

    @property
    def size_of_input(self) -> Literal["own", "data"] | int:
        """The input size: a network without a configuration takes the images as they are."""
        return self.input_size if isinstance(self.input_size, int) else DATA

    @property
    def files(self) -> tuple[LocalFile, ...]:
        """The files that the network needs."""
        return (self.path.file, *super().files)

    def located(self, paths: Mapping[str, str]) -> Self:
        """Return the options with the places of their files (SHA-256 -> path)."""
        found = super().located(paths)
        sha256 = self.path.file.sha256
        if sha256 not in paths:
            return found
        file = self.path.file.model_copy(update={"path": paths[sha256]})
        path = self.path.model_copy(update={"file": file})
        return found.model_copy(update={"path": path})
