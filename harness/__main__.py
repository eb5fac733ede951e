"""The `harness` command, and `python -m harness`; imports nothing before it can be interrupted."""

import atexit
import gc
import os
import sys


def command() -> int:
    """Run the command, and return its exit status: 130 after Ctrl-C, even during imports."""
    # What an import creates stays. Searching it for garbage after every 700 objects took a fourth
    # of the time in which MLflow and PyTorch are imported.
    gc.set_threshold(50_000, 10, 10)
    statuses: list[int] = []
    atexit.register(_exit_now, statuses)  # registered first, so called last
    try:
        from harness.cli import main

        statuses.append(main())
    except KeyboardInterrupt:
        statuses.append(130)
    return statuses[0]


def _exit_now(statuses: list[int]) -> None:
    """End the process without taking its modules apart, which takes a second after PyTorch."""
    if statuses:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(statuses[0])


if __name__ == "__main__":
    sys.exit(command())
