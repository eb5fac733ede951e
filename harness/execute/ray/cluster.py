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

TRIES, WAIT = 3, 2.0  # seconds between them
ANSWER = 5.0  # seconds for a connection
INSTALL = "pip install 'ray[client]>=2.40' (the extra `ray` of this package)"


def import_ray() -> Any:
    """
    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--executor ray: cannot import Ray ({error}); {INSTALL}") from None
    return ray


def connect(ray: Any, address: str) -> bool:
    """Join the cluster. Tasks run this process's code: it travels with the job.

    Returns:
        Whether we did: not if this process had joined one before.

    Raises:
        UserError: no Ray answers there, after some tries, or it refuses.
    """
    if ray.is_initialized():
        return False
    import logging

    variables = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    code = {"py_modules": [str(Path(__file__).parents[2])], "excludes": ["**/__pycache__/**"]}
    for number in range(TRIES):
        if number:
            time.sleep(WAIT)
        try:
            _knock(address)
            ray.init(
                address=address,
                runtime_env={**code, "env_vars": variables},
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            return True
        except ImportError as error:  # ray:// needs more than Ray
            raise UserError(f"--ray-address: {one_line(error)}; {INSTALL}") from None
        except OSError as error:  # a ConnectionError is one
            reason = one_line(error)
        except (RuntimeError, ValueError) as error:  # another release of Ray or Python, no address
            raise _no_cluster(address, one_line(error)) from None
    raise _no_cluster(address, f"{TRIES} tries, the last: {reason}")


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"--ray-address: no Ray cluster at {address} that can be used ({why}); start one with "
        "`ray start --head`, or give the address of one; nothing was started, nothing is lost"
    )


def _knock(address: str) -> None:
    """Ray itself waits for long where nobody listens.

    Raises:
        OSError: nobody listens there.
    """
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d{1,5})", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=ANSWER).close()


Node = Mapping[str, Any]  # as ray.nodes() describes one


def resources_of(nodes: Iterable[Node]) -> list[dict[str, float]]:
    """Of each live node."""
    return [dict(node["Resources"]) for node in nodes if node["Alive"]]


def places(resources: Iterable[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """How many cells fit on these nodes; each has `cpus` cores of one node and, where it is not 0,
    `gpus` of one GPU."""
    n = 0
    for its in resources:
        fit = int(its.get("CPU", 0)) // cpus
        if gpus:
            fit = min(fit, int(its.get("GPU", 0)) * int(1 / gpus + 1e-9))
        n += fit
    return n


def check_room(resources: list[dict[str, float]], options: RayOptions) -> None:
    """
    Raises:
        UserError: no node has what one cell asks for.
    """
    if places(resources, options.cpus, options.gpus):
        return
    most_gpus = max((its.get("GPU", 0.0) for its in resources), default=0.0)
    most_cpus = max((its.get("CPU", 0.0) for its in resources), default=0.0)
    if options.gpus > most_gpus:
        raise UserError(
            f"--gpus-per-cell: {options.gpus:g}, but no node of the cluster has more than "
            f"{most_gpus:g} GPUs ({len(resources)} nodes); give less, or add such a node"
        )
    raise UserError(
        f"--cpus-per-cell: {options.cpus}, but no node of the cluster has more than {most_cpus:g} "
        f"cores ({len(resources)} nodes); give less, or add such a node"
    )
