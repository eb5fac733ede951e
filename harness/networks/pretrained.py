"""Pretrained weights: a file that a network starts from, such as one of a training on ImageNet.

An experiment file names a local file. Cells and fingerprints have its digest alone, so it may be
moved; where it lies on this machine is one of the options of a cell. Does not import torch.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from harness.common.errors import UserError
from harness.common.reading import read_file

if TYPE_CHECKING:
    from harness.networks.base import Network

FIELD = "pretrained"


class WeightsFile(BaseModel):
    """A file of weights.

    Attributes:
        sha256: its digest, in hexadecimal digits.
        path: where it lies; None if only the digest is known, as from a cell.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    path: str | None = None


def _parse(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    if re.fullmatch("[0-9a-f]{64}", str(value)):
        return WeightsFile(sha256=str(value))
    path = Path(value).expanduser().absolute()
    try:
        return WeightsFile(sha256=hashlib.sha256(read_file(path)).hexdigest(), path=str(path))
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); correct the path") from None


Pretrained = Annotated[
    WeightsFile,
    BeforeValidator(_parse),
    PlainSerializer(lambda file: file.sha256, return_type=str),
    WithJsonSchema({"type": "string"}),
]


def resolve_weights(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return an experiment's fields with relative paths of weights taken from `folder`."""

    def resolve(network: Any) -> Any:
        given = network.get(FIELD) if isinstance(network, dict) else None
        if not isinstance(given, str) or given.startswith("~"):
            return network
        return {**network, FIELD: str(folder / given)}

    def resolve_pair(pair: Any) -> Any:
        return {k: resolve(v) for k, v in pair.items()} if isinstance(pair, dict) else pair

    lists = {"students": resolve, "pairs": resolve_pair}
    return {
        **raw,
        **{key: resolve(raw[key]) for key in ("network", "teacher") if key in raw},
        **{k: [*map(one, raw[k])] for k, one in lists.items() if isinstance(raw.get(k), list)},
    }


def load_pretrained(network: Network, file: WeightsFile) -> None:
    """Load a file's weights into a network, except those of the last layer.

    Raises:
        UserError: no such file, another content, or a name or shape that is not the network's.
    """
    from harness.networks.published_file import first_difference, read_file

    if file.path is None:
        raise UserError(
            f"{FIELD}: the file with SHA-256 {file.sha256[:12]} is not on this machine; name its "
            "path in the experiment"
        )
    try:
        state, _, digest = read_file(Path(file.path))
    except UserError as error:
        raise UserError(str(error).replace("FILE", FIELD, 1)) from None
    if digest != file.sha256:
        raise UserError(f"{FIELD}: {file.path} has changed; start the experiment again")
    head = f"{network.head}."  # the last layer has other classes, and stays as it is drawn
    body = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    own = {k: v for k, v in network.state_dict().items() if not k.startswith(head)}
    if difference := first_difference(own, body):
        raise UserError(
            f"{FIELD}: {file.path}: {difference}; the file needs the names and shapes of this "
            "network (those of the released checkpoints)"
        )
    network.load_state_dict(body, strict=False)
