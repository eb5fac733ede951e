"""Loader workers that die: the cell says so, it does not wait for them."""

import os
import signal
from multiprocessing.queues import Queue
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from harness.data.loader import load_batches


def test_what_the_loader_replaces_is_there() -> None:
    """A private method of Python's queues: a release that renames it must fail here."""
    assert callable(Queue._on_queue_feeder_error)


class Unshared:
    """A batch that does not fit into shared memory: it fails where it is handed over."""

    def __reduce__(self) -> Any:
        raise RuntimeError("unable to mmap 1048576 bytes from file </torch_1>: out of memory")


class Dying(Dataset[Any]):
    """Batches whose worker ends, or cannot hand them over."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return Unshared()


@pytest.mark.parametrize("how", ["full", "killed"])
def test_a_worker_that_dies_is_named_with_the_remedy(how: str) -> None:
    with pytest.raises(RuntimeError, match="--n-workers"):
        list(load_batches(Dying(how), 4, torch.device("cpu"), 2))
