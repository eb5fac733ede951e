"""Which code, on which machine, made a number."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What the harness itself rewrites does not make a checkout dirty.
GENERATED = (":!README.md", ":!docs/figures", ":!experiments/results")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_version() -> dict[str, Any]:
    """commit (None outside a checkout) and dirty: tracked files changed, generated ones aside. An
    image has no checkout; its build writes HARNESS_COMMIT, as 1a2b... or 1a2b...-dirty."""
    commit = _git("rev-parse", "HEAD")
    if commit is None and (built := os.environ.get("HARNESS_COMMIT")):
        return {"commit": built.removesuffix("-dirty"), "dirty": built.endswith("-dirty")}
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *GENERATED)
    return {"commit": commit, "dirty": bool(status) if commit else None}


def software() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": version("torch")}
