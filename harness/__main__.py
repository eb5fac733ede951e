"""The `harness` command, and `python -m harness`. Imports nothing before it can be interrupted."""

import atexit
import gc
import os
import sys


def command() -> int:
    """The exit status: 130 also for Ctrl-C while Python still imports the rest."""
    # What an import makes stays: to look for garbage there after every 700 objects took a fourth
    # of the time in which MLflow and PyTorch are imported.
    gc.set_threshold(50_000, 10, 10)
    ended: list[int] = []
    atexit.register(_leave, ended)  # registered first, it comes last
    try:
        from harness.cli import main

        ended.append(main())
    except KeyboardInterrupt:
        ended.append(130)
    return ended[0]


def _leave(ended: list[int]) -> None:
    """At once: Python would take all modules apart, which took a second after PyTorch."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


if __name__ == "__main__":
    sys.exit(command())
