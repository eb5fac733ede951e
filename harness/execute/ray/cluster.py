"""Finding a Ray cluster, and how many cells it has room for."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.common.errors import UserError, one_line
from harness.execute.local import ENVIRONMENT
from harness.execute.ray.options import RayOptions

TRIES, PAUSE_SECONDS = 3, 2.0
CONNECT_SECONDS = 5.0
LOST_SECONDS = 30.0  # without an answer
START_SECONDS = 120.0  # that Ray's parts may take to start, at least; its own limits are shorter
INSTALL = "pip install 'ray[client]>=2.40' (the extra `ray` of this package)"


def import_ray(wait: float | None = None) -> Any:
    """Return the module `ray`, set up for a command; `wait` as in RayOptions.

    What the user has set stays.

    Raises:
        UserError: It is not installed.
    """
    seconds = str(int(max(START_SECONDS, wait or 0.0)))
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # How long Ray waits for its parts: 30 s are too few on a busy machine.
        "RAY_raylet_start_wait_time_s": seconds,
        "RAY_gcs_server_port_wait_time_s": seconds,
        "RAY_worker_register_timeout_seconds": seconds,
        # With the address `local`, Ray's processes are this command's: they wait for nobody.
        "RAY_worker_niceness": "0",
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--executor ray: cannot import Ray ({error}); {INSTALL}") from None
    return ray


def connect(ray: Any, address: str, wait: float | None = None) -> bool:
    """Join a cluster. Tasks run this process's code, which is sent with the job.

    Returns:
        Whether the process joined now; False if it had before.

    Raises:
        UserError: No Ray answers there after some tries, and `wait` seconds, or it refuses.
    """
    if ray.is_initialized():
        return False
    import logging

    variables = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    with contextlib.suppress(AttributeError):  # pages of the log of a node that was lost
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    code = {"py_modules": [str(Path(__file__).parents[2])], "excludes": ["**/__pycache__/**"]}
    begin, n_tries = time.monotonic(), 0
    where = address
    while n_tries < TRIES or time.monotonic() < begin + (wait or 0.0):
        if n_tries:
            time.sleep(PAUSE_SECONDS)
        n_tries += 1
        try:
            where = find_cluster(ray, address)
            check_speaks_ray(where)
            ray.init(
                address=where,
                runtime_env={**code, "env_vars": variables},
                logging_level=logging.CRITICAL,
                log_to_driver=False,
            )
            return True
        except UserError:
            raise
        except ImportError as error:  # ray:// needs more packages than Ray
            raise UserError(f"--ray-address: {one_line(error)}; {INSTALL}") from None
        except TimeoutError:
            reason = "what listens there does not answer"
        except OSError as error:  # a ConnectionError is one
            reason = error.strerror or one_line(error)
        except Exception as error:  # another release of Ray or Python; a start that took too long
            raise _no_cluster(address, where, one_line(error)) from None
    raise _no_cluster(address, where, f"{n_tries} tries, the last: {reason}")


def _no_cluster(address: str, where: str, why: str) -> UserError:
    named = address if where == address else f"{where} ({address})"
    return UserError(
        f"--ray-address: no Ray cluster at {named} that can be used ({why}); start one with "
        "`ray start --head`, give the address of one, or more time with --ray-wait; nothing was "
        "started"
    )


def find_cluster(ray: Any, address: str) -> str:
    """Return the address that `auto` stands for, or the address itself.

    Raises:
        ConnectionError: There is no cluster on this machine.
    """
    if address != "auto":
        return address
    services = ray._private.services  # which knows where `ray start` notes addresses
    return str(services.get_ray_address_from_environment("auto", None))


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
                "ray://HOST:PORT, auto or local"
            )
        return
    with socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS) as found:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        found.sendall(_GREETING)
        answer = found.recv(9)
    if answer[3:4] != bytes([_SETTINGS]):
        raise OSError(0, "something other than Ray listens there")


class Watch:
    """Whether a cluster that this process has joined still answers.

    Asking Ray itself would block, and it would end this process after a minute.
    """

    def __init__(self, ray: Any, address: str) -> None:
        self._given = address
        through_client = address.startswith("ray://")
        self._address = address if through_client else ray.get_runtime_context().gcs_address
        self._answered = time.monotonic()

    def is_there(self) -> bool:
        """Return whether the cluster answers now.

        Raises:
            OSError: It has not answered for `LOST_SECONDS`.
        """
        try:
            check_speaks_ray(self._address)
        except OSError:
            if time.monotonic() > self._answered + LOST_SECONDS:
                raise
            return False
        self._answered = time.monotonic()
        return True

    @contextlib.contextmanager
    def telling_if_lost(self) -> Iterator[None]:
        """Run calls of Ray; if they block because the cluster is gone, print that it is lost.

        Ray ends this process after a minute of such a call, without a word.
        """

        def tell() -> None:
            try:
                check_speaks_ray(self._address)
            except OSError as error:
                print(f"error: {lost(self._given, error)}", file=sys.stderr, flush=True)

        timer = threading.Timer(LOST_SECONDS, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def lost(address: str, error: Exception) -> str:
    """Return the message that a cluster no longer answers."""
    return (
        f"--ray-address: lost the Ray cluster at {address} ({one_line(error)}); rerun the command "
        "to resume"
    )


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


def wait_for_room(ray: Any, options: RayOptions) -> list[dict[str, float]]:
    """Return the resources of the nodes, once a cell fits on one of them.

    Raises:
        UserError: No node has what one cell needs, also after `options.wait` seconds.
    """
    deadline = time.monotonic() + (options.wait or 0.0)
    while True:
        resources = resources_of(ray.nodes())
        try:
            check_room(resources, options)
            return resources
        except UserError:
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


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
