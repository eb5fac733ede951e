"""Loader workers that die: the cell says so, it does not wait for them."""

import os
import signal
from multiprocessing.queues import Queue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Patch

from harness.data import loader


def test_what_the_loader_replaces_is_there() -> None:
    """A private method of Python's queues: a release that renames it must fail here."""
    assert callable(Queue._on_queue_feeder_error)


class Unshared:
    """A batch that does not fit into shared memory: it fails where it is handed over."""

    def __reduce__(self) -> Any:
        raise RuntimeError("unable to mmap 1048576 bytes from file </torch_1>: out of memory")


@pytest.mark.parametrize("how", ["full", "killed"])
def test_a_worker_that_dies_is_named_with_the_remedy(how: str, monkeypatch: Patch) -> None:
    def batch(_: Any, i: int) -> Any:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return Unshared()

    monkeypatch.setattr(loader._Cutter, "__getitem__", batch)
    images: Any = SimpleNamespace(
        n_workers=2, images=None, augmentation=SimpleNamespace(size=8), device=torch.device("cpu")
    )
    with pytest.raises(RuntimeError, match="--n-workers"):
        list(loader.LoaderImages._pixels(images, None, [(0, 1)] * 4))
