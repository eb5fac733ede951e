"""Bodies of the tasks in Ray's tests, instead of a training. Ray's processes import this module."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import some_manifest

from harness.store import CellDir
from harness.train.exit_status import DONE, STOPPED


def at_once(directory: CellDir, *_: Any) -> int:
    """A result without a training: which GPUs the task was given."""
    with directory.lease():
        directory.append("start")
        (directory / "model.pt").write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        directory.finish(some_manifest(model_sha256=digest, device=seen))
    return DONE


def killed(directory: CellDir, *_: Any) -> int:
    """Takes its process with it."""
    with directory.lease():
        directory.append("start")
    os.kill(os.getpid(), signal.SIGKILL)
    return DONE


def waiting(directory: CellDir, *arguments: Any) -> int:
    """Until it is asked to stop."""
    should_stop: Callable[[], bool] = arguments[3]
    with directory.lease():
        directory.append("start")
        while not should_stop():
            time.sleep(0.01)
    return STOPPED


def deaf(directory: CellDir, *_: Any) -> int:
    """Does not stop, whoever asks."""
    with directory.lease():
        directory.append("start", pid=os.getpid())
        while True:
            time.sleep(0.05)


def gathered(directory: CellDir, *arguments: Any) -> int:
    """Waits until four cells have come here."""
    meeting = Path(os.environ["HARNESS_TEST_MEETING"])
    (meeting / directory.path.name).touch()
    while len(list(meeting.iterdir())) < 4:
        time.sleep(0.01)
    return at_once(directory, *arguments)
