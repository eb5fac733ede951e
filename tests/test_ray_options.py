"""Parts of the Ray executor that need no cluster: options, room on nodes, messages, signals."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import pytest
from helpers import wrong

from harness.common.errors import UserError
from harness.common.signals import uninterrupted
from harness.execute.executors import cluster_of
from harness.execute.ray import cluster
from harness.execute.ray.cluster import import_ray, n_cells_that_fit, resources_of
from harness.execute.ray.node import Mailbox
from harness.execute.ray.options import RayOptions


def test_the_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--executor ray.*pip install"):
        import_ray()


def chosen(name: str = "ray", **given: Any) -> Any:
    options: dict[str, Any] = {"address": None, "cpus": None, "gpus": None}
    options |= {"no_shared_files": False, "jobs": None, "device": "auto"} | given
    return cluster_of(name, **options)


def test_options_of_the_command() -> None:
    assert chosen("local", jobs=2, device="cuda") is None, "this machine"
    assert chosen() == RayOptions()
    everything = chosen(address="ray://x:1", cpus=2, gpus=0.5, no_shared_files=True, jobs=7)
    assert everything == RayOptions("ray://x:1", 2, 0.5, "cuda", 7, False)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "lokal"}, "--executor"),
        ({"name": "local", "address": "x"}, "--ray-address"),
        ({"name": "local", "cpus": 2}, "--cpus-per-cell"),
        ({"name": "local", "gpus": 0.5}, "--gpus-per-cell"),
        ({"name": "local", "no_shared_files": True}, "--no-shared-files"),
        ({"gpus": 2.0}, "--gpus-per-cell"),
        ({"gpus": -1.0}, "--gpus-per-cell"),
        ({"device": "cuda:1", "gpus": 1.0}, "--device"),
        ({"device": "cuda"}, "--device"),
        ({"jobs_per_device": 2}, "--jobs-per-device"),
        ({"device": "cpu", "gpus": 0.5}, "--gpus-per-cell"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], field: str) -> None:
    assert wrong(lambda: chosen(**given)).startswith(f"{field}: ")


def test_how_many_cells_fit() -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"memory": 1e9, **resources}}

    nodes = resources_of([node(CPU=4), node(CPU=3.5, GPU=2), node(), node(False, CPU=64, GPU=8)])
    assert n_cells_that_fit(nodes, 1, 0) == 7
    assert n_cells_that_fit(nodes, 2, 0) == 3, "a cell's cores are of one node"
    assert n_cells_that_fit(nodes, 1, 1) == 2
    assert n_cells_that_fit(nodes, 1, 0.4) == 3, "two on each GPU, but three cores"
    assert n_cells_that_fit([{"CPU": 100, "GPU": 3}], 1, 0.1) == 30
    assert n_cells_that_fit([{"CPU": 100, "GPU": 2}], 1, 0.6) == 2, "a cell's share is of one GPU"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), None),  # as gRPC begins
        (b"HTTP/1.1 400 Bad request\r\n\r\n", "something other than Ray"),
        (b"", "does not answer"),
    ],
)
def test_what_listens_at_the_address_is_asked(
    answer: bytes, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ray:
        address = ""

        def is_initialized(self) -> bool:
            return False

        def init(self, address: str, **_: Any) -> None:
            self.address = address

    monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    ray = Ray()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while client := server.accept()[0]:
                    client.send(answer)
                    clients.append(client)

        clients: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        if why is None:
            assert cluster.connect(ray, address) and ray.address == address
        else:
            wrong(lambda: cluster.connect(ray, address), address, why)
        server.shutdown(socket.SHUT_RDWR)
    for client in clients:
        client.close()


@pytest.mark.parametrize("address", ["6379", "http://127.0.0.1:8265", "127.0.0.1"])
def test_what_is_no_address_of_ray_is_refused(address: str) -> None:
    wrong(lambda: cluster.check_speaks_ray(address), "HOST:PORT")


def test_the_mailbox_keeps_what_is_not_known_to_be_stored() -> None:
    box = Mailbox()
    box.put("a", "journal", 1)
    box.put("b", "journal", 2)
    assert box.take(0) == box.take(0) == [(1, "a", "journal", 1), (2, "b", "journal", 2)]
    box.put("a", "checkpoint", 3)
    assert box.take(1) == [(2, "b", "journal", 2), (3, "a", "checkpoint", 3)]
    assert box.take(3) == [] == box.take(0)


def test_signals_wait_for_the_end_of_a_write() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("written")
    assert done == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: stack.enter_context(uninterrupted()))
        thread.start()
        thread.join()
