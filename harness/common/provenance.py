"""Which code, on which machine, made a number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.common.errors import one_line

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "unknown"  # where a commit would stand
# What the harness itself rewrites does not make a checkout dirty.
GENERATED = (":!README.md", ":!docs", ":!experiments/results", ":!benchmarks/results")


class NoAnswer(Exception):
    """git does not say anything about this checkout; the message says why."""


def _git(*arguments: str) -> str:
    """
    Raises:
        NoAnswer: git is not there, is too slow, or refuses.
    """
    # A hook, or a shell's set-up, may point git at another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            env=environment | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except FileNotFoundError:
        raise NoAnswer("git is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"git does not answer ({one_line(error)})") from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise NoAnswer(f"git refuses: {said.removeprefix('fatal: ')}")
    return done.stdout.strip()


def code_version() -> dict[str, Any]:
    """commit and dirty: tracked files changed, generated ones aside. Only git's answer about this
    very checkout counts, not that of a repository around it; without one, both are None and `why`
    says so. An image has no checkout; its build writes HARNESS_COMMIT, as 1a2b... or
    1a2b...-dirty."""
    try:
        top = Path(_git("rev-parse", "--show-toplevel"))
        if not top.is_dir() or not top.samefile(ROOT):
            raise NoAnswer(f"the code lies inside another repository, {top.name}")
        commit = _git("rev-parse", "HEAD")
        status = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *GENERATED)
        return {"commit": commit, "dirty": bool(status)}
    except NoAnswer as reason:
        if built := os.environ.get("HARNESS_COMMIT"):
            return {"commit": built.removesuffix("-dirty"), "dirty": built.endswith("-dirty")}
        return {"commit": None, "dirty": None, "why": str(reason)}


def code_version_or_warn() -> dict[str, Any]:
    """`code_version`, for a command that is about to train: what is not known is said before."""
    found = code_version()
    if found["commit"] is None:
        print(
            f"warning: the commit of this code is unknown ({found['why']}), and the tables will "
            "say so; train from a git checkout, or set HARNESS_COMMIT",
            file=sys.stderr,
        )
    return found


def version_text() -> str:
    """ "refilled-harness 0.1.0, commit 1a2b3c4d5e6f"."""
    found = code_version()
    changed = "-dirty" if found["dirty"] else ""
    commit = f"{found['commit'][:12]}{changed}" if found["commit"] else f"unknown ({found['why']})"
    return f"refilled-harness {version('refilled-harness')}, commit {commit}"


def software() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": version("torch")}


def processor() -> str:
    """The model of this machine's CPU: floating-point sums differ between them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def n_cores() -> int:
    """Cores that this process may use; those of the machine where nothing tells (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
