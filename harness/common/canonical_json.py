"""Plain data as one exact text, for digests and for lines of JSON; and how two of them differ."""

from __future__ import annotations

import json
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces: equal data, equal text.

    Raises:
        ValueError: NaN or an infinite number.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """`field: old -> new` for every leaf in which two pieces of plain data differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b, where = old.get(key), new.get(key), f"{path}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{where}.")
        elif a != b:
            lines.append(f"{where}: {a!r} -> {b!r}")
    return lines


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"training": {"epochs": 20}} -> {"training.epochs": 20}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {k: v for key, sub in value.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}
