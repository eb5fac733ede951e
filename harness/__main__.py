"""The `harness` command, and `python -m harness`. Imports nothing before it can be interrupted."""

import sys


def command() -> int:
    """The exit status: 130 also for Ctrl-C while Python still imports the rest."""
    try:
        from harness.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(command())
