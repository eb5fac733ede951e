"""Finding a Ray cluster, and how many cells it has room for."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.common.errors import UserError, one_line
from harness.execute.local import ENVIRONMENT
from harness.execute.ray.options import RayOptions

TRIES, WAIT_SECONDS = 3, 2.0
CONNECT_SECONDS = 5.0
INSTALL = "pip install 'ray[client]>=2.40' (the extra `ray` of this package)"


def import_ray() -> Any:
    """Return the module `ray`.

    Raises:
        UserError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--executor ray: cannot import Ray ({error}); {INSTALL}") from None
    return ray


def connect(ray: Any, address: str) -> bool:
    """Join a cluster. Tasks run this process's code, which is sent with the job.

    Returns:
        Whether the process joined now; False if it had before.

    Raises:
        UserError: No Ray answers there after some tries, or it refuses.
    """
    if ray.is_initialized():
        return False
    import logging

    variables = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    code = {"py_modules": [str(Path(__file__).parents[2])], "excludes": ["**/__pycache__/**"]}
    for number in range(TRIES):
        if number:
            time.sleep(WAIT_SECONDS)
        try:
            check_speaks_ray(address)
            ray.init(
                address=address,
                runtime_env={**code, "env_vars": variables},
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            return True
        except ImportError as error:  # ray:// needs more packages than Ray
            raise UserError(f"--ray-address: {one_line(error)}; {INSTALL}") from None
        except TimeoutError:
            reason = "what listens there does not answer"
        except OSError as error:  # a ConnectionError is one
            reason = error.strerror or one_line(error)
        except (RuntimeError, ValueError) as error:  # another release of Ray or Python, no address
            raise _no_cluster(address, one_line(error)) from None
    raise _no_cluster(address, f"{TRIES} tries, the last: {reason}")


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"--ray-address: no Ray cluster at {address} that can be used ({why}); start one with "
        "`ray start --head`, or give the address of one; nothing was started"
    )


# What a client of HTTP/2, and so of Ray, sends first; a server answers with its settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4  # the kind of that answer, its fourth byte


def check_speaks_ray(address: str) -> None:
    """Check that something like Ray is at the address; Ray itself would wait for long.

    Raises:
        OSError: Nothing listens there, or something that does not answer as Ray would.
        UserError: It is no address.
    """
    match = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d{1,5})", address)
    if not match:
        if (":" not in address and address not in ("auto", "local")) or address.startswith("http"):
            raise UserError(
                f"--ray-address: {address!r} is no address of a Ray cluster; write HOST:PORT, "
                "ray://HOST:PORT or auto"
            )
        return
    with socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS) as found:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        found.sendall(_GREETING)
        answer = found.recv(9)
    if answer[3:4] != bytes([_SETTINGS]):
        raise OSError(0, "something other than Ray listens there")


Node = Mapping[str, Any]  # as ray.nodes() describes one


def resources_of(nodes: Iterable[Node]) -> list[dict[str, float]]:
    """Return the resources of each live node."""
    return [dict(node["Resources"]) for node in nodes if node["Alive"]]


def n_cells_that_fit(resources: Iterable[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Return how many cells fit on nodes with these resources.

    A cell takes `cpus` cores of one node, and the share `gpus` of one GPU, or 0.
    """
    n = 0
    for node in resources:
        n_on_node = int(node.get("CPU", 0)) // cpus
        if gpus:
            n_on_node = min(n_on_node, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9))
        n += n_on_node
    return n


def check_room(resources: list[dict[str, float]], options: RayOptions) -> None:
    """Check that at least one cell fits on the cluster.

    Raises:
        UserError: No node has what one cell needs.
    """
    if n_cells_that_fit(resources, options.cpus, options.gpus):
        return
    most_gpus = max((node.get("GPU", 0.0) for node in resources), default=0.0)
    most_cpus = max((node.get("CPU", 0.0) for node in resources), default=0.0)
    if options.gpus > most_gpus:
        raise UserError(
            f"--gpus-per-cell: {options.gpus:g}, but no node of the cluster has more than "
            f"{most_gpus:g} GPUs ({len(resources)} nodes); give less, or add such a node"
        )
    raise UserError(
        f"--cpus-per-cell: {options.cpus}, but no node of the cluster has more than {most_cpus:g} "
        f"cores ({len(resources)} nodes); give less, or add such a node"
    )
