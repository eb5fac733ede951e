"""Files that a network needs: initial weights, or the source of a user's own network.

An experiment file names a local file, or weights that a library has a name for. Cells and
fingerprints have the file's digest alone, so it may be moved; where it lies on this machine is one
of the options of a cell. Does not import torch.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from harness.common.errors import UserError
from harness.common.reading import read_file

if TYPE_CHECKING:
    from harness.networks.base import Network

FIELD = "weights"
KEY = "pretrained"  # its name in cells, and an older one in experiment files
DIGEST = "[0-9a-f]{64}"


class LocalFile(BaseModel):
    """A file that decides what a network is.

    Attributes:
        sha256: its digest, in hexadecimal digits.
        path: where it lies; None if only the digest is known, as from a cell.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    path: str | None = None

    @staticmethod
    def at(path: Path) -> LocalFile:
        """Return the file at a path.

        Raises:
            ValueError: it cannot be read.
        """
        path = path.expanduser().absolute()
        try:
            return LocalFile(sha256=hashlib.sha256(read_file(path)).hexdigest(), path=str(path))
        except OSError as error:
            raise ValueError(f"cannot read {path} ({error.strerror}); correct the path") from None


def _parse(value: Any) -> Any:
    if value is None or isinstance(value, LocalFile):
        return value
    if not isinstance(value, str | Path):
        raise ValueError("expected the path of a file, or the name of weights")
    if re.fullmatch(DIGEST, str(value)):
        return LocalFile(sha256=str(value))
    return LocalFile.at(Path(value))


Weights = Annotated[
    LocalFile,
    BeforeValidator(_parse),
    PlainSerializer(lambda file: file.sha256, return_type=str),
    WithJsonSchema({"type": "string"}),
]


def is_name(value: Any) -> bool:
    """Return whether `weights` has the form of a name and not of a path: IMAGENET1K_V1, a1_in1k."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z]\w*(_Weights\.\w+)?", value) is not None
        and re.fullmatch(DIGEST, value) is None
    )


def resolve_weights(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return an experiment's fields with relative paths of networks' files taken from `folder`.

    What has the form of a name is one, unless a file of that name lies there.
    """

    def resolve(network: Any) -> Any:
        if not isinstance(network, dict):
            return network
        paths = {
            key: os.path.join(folder, given)  # "./file" is no name, while Path("file") could be
            for key in (FIELD, KEY, "path")
            if isinstance(given := network.get(key), str)
            and not given.startswith("~")
            and not (key != "path" and is_name(given) and not (folder / given).is_file())
        }
        return {**network, **paths}

    def resolve_pair(pair: Any) -> Any:
        return {k: resolve(v) for k, v in pair.items()} if isinstance(pair, dict) else pair

    lists = {"students": resolve, "pairs": resolve_pair}
    return {
        **raw,
        **{key: resolve(raw[key]) for key in ("network", "teacher") if key in raw},
        **{k: [*map(one, raw[k])] for k, one in lists.items() if isinstance(raw.get(k), list)},
    }


def load_weights(network: Network, file: LocalFile) -> None:
    """Load a file's weights into a network, except those of layers that are drawn anew.

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
    # The last layer has other classes.
    new = tuple(f"{layer}." for layer in (network.head, *network.new_layers))
    body = {k: v for k, v in network.renamed(state).items() if not k.startswith(new)}
    own = {k: v for k, v in network.state_dict().items() if not k.startswith(new)}
    if difference := first_difference(own, body):
        raise UserError(
            f"{FIELD}: {file.path}: {difference}; the file needs the names and shapes of this "
            "network (those of the released checkpoints)"
        )
    network.load_state_dict(body, strict=False)
