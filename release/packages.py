"""The packages of the lock files, with what their installed metadata say."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Any

from cyclonedx import spdx
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.common.errors import UserError

TRAINING_LOCK, DEVELOPING_LOCK = "requirements.lock", "requirements-dev.lock"
# Classifiers that name no licence.
_GROUPS = ("OSI Approved", "DFSG approved", "Other/Proprietary License")
_LONGEST = 80  # characters of a licence's name; longer fields hold its text


@dataclass(frozen=True)
class Package:
    """One package of a lock file.

    Attributes:
        name: Its name, as the lock file writes it.
        version: Its version in the lock file.
        is_for_training: Whether training needs it; otherwise only an extra or developing does.
        licence: Its licence, as its metadata state it; None if they state none.
        licence_files: The files in its metadata that hold the text of a licence.
        needs: The canonical names of the locked packages that it needs itself.
    """

    name: str
    version: str
    is_for_training: bool
    licence: str | None
    licence_files: tuple[str, ...]
    needs: frozenset[str]


def read_project(root: Path) -> dict[str, Any]:
    """Return the table `project` of pyproject.toml.

    Args:
        root: The root of the project.
    """
    content = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project: dict[str, Any] = content["project"]
    return project


def locked_versions(file: Path) -> dict[str, str]:
    """Return the version of each package in a lock file, by name."""
    lines = map(Requirement, file.read_text(encoding="utf-8").splitlines())
    return {line.name: next(iter(line.specifier)).version for line in lines}


def direct_requirements(project: dict[str, Any]) -> list[Requirement]:
    """Return what the project itself needs, with all its extras.

    Args:
        project: From `read_project`.
    """
    extras = project.get("optional-dependencies", {})
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    found = map(Requirement, lines)
    return [r for r in found if r.name != project["name"]]


def read_packages(root: Path) -> list[Package]:
    """Return all locked packages in the order of their names.

    Args:
        root: The root of the project.

    Raises:
        UserError: A package is not installed in the version of its lock file.
    """
    locks = {name: locked_versions(root / name) for name in (TRAINING_LOCK, DEVELOPING_LOCK)}
    versions = locks[TRAINING_LOCK] | locks[DEVELOPING_LOCK]
    for name, version in versions.items():
        if installed_version(name) != version:
            raise UserError(
                f"{name}: version {version} of the lock files is not installed; `make setup-dev`"
            )
    names = {canonicalize_name(name) for name in versions}
    needs = _needs(direct_requirements(read_project(root)), names)
    return [
        Package(
            name,
            version,
            is_for_training=name in locks[TRAINING_LOCK],
            licence=stated_licence(name),
            licence_files=tuple(metadata(name).get_all("License-File") or ()),
            needs=frozenset(needs[canonicalize_name(name)]),
        )
        for name, version in sorted(versions.items(), key=lambda item: canonicalize_name(item[0]))
    ]


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata(name)["Version"]
    except PackageNotFoundError:
        return None


def stated_licence(name: str) -> str | None:
    """Return the licence of an installed package as its metadata state it, or None.

    An SPDX expression is preferred to classifiers, and these to other text.
    """
    fields = metadata(name)
    if expressions := fields.get_all("License-Expression"):
        return str(expressions[0])
    text = (fields.get_all("License") or [""])[0].strip()
    is_name = 0 < len(text) <= _LONGEST and "\n" not in text and text != "UNKNOWN"
    if is_name and (spdx.is_supported_id(text) or spdx.is_expression(text)):
        return text
    classifiers = (c.split(" :: ") for c in fields.get_all("Classifier") or ())
    named = [c[-1] for c in classifiers if c[0] == "License" and c[-1] not in _GROUPS]
    return ", ".join(named) or (text if is_name else None)


def _needs(direct: Iterable[Requirement], locked: Iterable[str]) -> dict[str, set[str]]:
    """Return which locked packages each locked package needs, with the extras that others want."""
    known = frozenset(locked)
    found: dict[str, set[str]] = defaultdict(set)
    seen: set[tuple[str, str]] = set()
    waiting = [*direct]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras}:
            if name not in known or (name, extra) in seen:
                continue
            seen.add((name, extra))
            below = map(Requirement, requires(wanted.name) or ())
            below_here = [r for r in below if not r.marker or r.marker.evaluate({"extra": extra})]
            found[name] |= {canonicalize_name(r.name) for r in below_here} & known - {name}
            waiting += below_here
    return found
