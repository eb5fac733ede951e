"""Network families: a name in an experiment file -> its options and its torch module.

To add a family, add one folder, harness/networks/NAME/, of two files:

- `__init__.py` has the options model: a subclass of `NetworkOptions` under `@register_network`.
  Its fields are what an experiment file may say. It does not import torch, so that an experiment is
  checked and planned at once; that is why the module is a file of its own.
- `network.py` has the torch module: a subclass of `harness.networks.base.Network`.

The folders are found by scanning this package; nothing else names a family.

- `options`: the options model of a family; `base`: the interface of a network;
  `pretrained`: the files that a network needs, such as weights that it starts from.
- `published_file`: weights that others have written, read as data.
- `foreign`: the options of networks that a library or the user has written; `wrapped`: such a
  network as a `Network`; `layout`: where it has its last layer, its maps and its stem;
  `check`: what an experiment's networks are found to be before anything trains.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from harness.networks.options import FAMILIES, NETWORKS, NetworkOptions, register_network

if TYPE_CHECKING:
    from harness.networks.base import Network

__all__ = [
    "NETWORKS",
    "NetworkOptions",
    "build",
    "family_with",
    "find_families",
    "register_network",
]


def build(name: str, /, n_classes: int, **options: Any) -> Network:
    """Return a freshly initialised network.

    Args:
        name: The name of its family.
        n_classes: The number of outputs of the last linear layer.
        options: Fields of the family's options model; its defaults apply.

    Raises:
        pydantic.ValidationError: An option is unknown, missing or impossible.
        KeyError: There is no such family.
    """
    return FAMILIES[name](network=name, **options).build(n_classes)


def family_with(name: str) -> str | None:
    """Return the family that has a network of this name, None if none has; libraries come last."""
    latest_first = [*NETWORKS][::-1]  # torchvision before timm
    families = sorted(latest_first, key=lambda family: not NETWORKS[family].names)
    return next((family for family in families if NETWORKS[family].has_name(name)), None)


def find_families() -> None:
    """Import the folders of this package, so that their families register themselves."""
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            importlib.import_module(f"{__name__}.{module.name}")


find_families()
