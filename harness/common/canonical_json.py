"""Plain data as one exact text, for digests and lines of JSON, and the differences between two."""

from __future__ import annotations

import json
from typing import Any


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal data give equal text.

    Raises:
        ValueError: NaN or an infinite number.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """Return `field: old -> new` for every leaf in which two pieces of plain data differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b, where = old.get(key), new.get(key), f"{path}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{where}.")
        elif a != b:
            lines.append(f"{where}: {a!r} -> {b!r}")
    return lines


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return {"training.epochs": 20} for {"training": {"epochs": 20}}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {k: v for key, sub in value.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}
