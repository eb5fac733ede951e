"""Build the documentation site: `python -m website FOLDER`; without FOLDER, only check it."""

import logging
import os
import sys
import tempfile
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config


def build_site(folder: Path) -> None:
    """Build the site; a link that leads nowhere or a docstring that cannot be read is an error.

    Args:
        folder: Where the site goes; it is emptied first.

    Raises:
        Abort: There was a warning. `mkdocs build --quiet` would hide and forgive it.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    root = Path(__file__).resolve().parent.parent
    build(load_config(str(root / "mkdocs.yml"), site_dir=str(folder)))


if __name__ == "__main__":
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # the theme's advertisement
    if sys.argv[1:]:
        build_site(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            build_site(Path(folder))
