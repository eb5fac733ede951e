"""The code and the machine behind a number."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import NotRequired, TypedDict

from harness.common.errors import one_line

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "refilled-harness"
UNKNOWN = "unknown"  # in place of a commit
# `git archive` writes the commit into this file (.gitattributes), which wheels and tarballs keep.
ARCHIVED_COMMIT = Path(__file__).with_name("archived_commit.txt")
# Files that the harness itself rewrites do not make a checkout dirty.
GENERATED = (":!README.md", ":!docs", ":!experiments/results", ":!benchmarks/results")


class CodeVersion(TypedDict):
    """The code that made a number.

    Attributes:
        commit: The commit; None if it is unknown.
        dirty: Whether tracked files were changed, except generated ones; None if it is unknown.
        why: Why the commit is unknown.
    """

    commit: str | None
    dirty: bool | None
    why: NotRequired[str]


class NoAnswer(Exception):
    """Git tells nothing about this checkout; the message says why."""


def _git(*arguments: str) -> str:
    """Return the output of a git command in this checkout.

    Raises:
        NoAnswer: git is missing, too slow, or refuses.
    """
    # A hook or a shell profile may point git at another repository.
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
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise NoAnswer(f"git refuses: {reason.removeprefix('fatal: ')}")
    return done.stdout.strip()


def code_version() -> CodeVersion:
    """Return the version of this code.

    Only git's answer for this very checkout counts, not that of a repository around it. Container
    images have no checkout; their build sets HARNESS_COMMIT to 1a2b... or 1a2b...-dirty. A wheel of
    `make dist` and a tarball of `git archive` have a file instead. Nobody knows whether their code
    has been changed since.
    """
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
        if archived := _archived_commit():
            return {"commit": archived, "dirty": None}
        return {"commit": None, "dirty": None, "why": str(reason)}


def _archived_commit() -> str | None:
    try:
        text = ARCHIVED_COMMIT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{40,64}", text) else None


def code_version_or_warn() -> CodeVersion:
    """Return `code_version`, with a warning before training if the commit is unknown."""
    code = code_version()
    if code["commit"] is None:
        print(
            f"warning: the commit of this code is unknown ({code['why']}), and the tables will "
            "say so; train from a git checkout, or set HARNESS_COMMIT",
            file=sys.stderr,
        )
    return code


def package_version() -> str:
    """Return the version of this code.

    A checkout is asked first: the metadata of an editable installation keeps the version that the
    checkout had when it was installed.
    """
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == DISTRIBUTION:
            return str(project["version"])
    except (OSError, ValueError, KeyError):  # as in a wheel
        pass
    return version(DISTRIBUTION)


def version_text() -> str:
    """Return "refilled-harness 1.0.0, commit 1a2b3c4d5e6f"."""
    code = code_version()
    changed = "-dirty" if code["dirty"] else ""
    commit = f"{code['commit'][:12]}{changed}" if code["commit"] else f"unknown ({code['why']})"
    return f"{DISTRIBUTION} {package_version()}, commit {commit}"


def software() -> dict[str, str]:
    """Return the versions of Python and torch."""
    return {"python": platform.python_version(), "torch": version("torch")}


def processor() -> str:
    """Return the model of this machine's CPU: floating-point sums differ between models."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def n_cores() -> int:
    """Return the number of cores that this process may use, or the machine's if unknown (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
