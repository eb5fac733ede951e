"""`python -m harness` is the `harness` command."""

import sys

if __name__ == "__main__":
    try:
        from harness.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while Python still imports
        sys.exit(130)
