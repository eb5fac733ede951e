"""Durations as text, in one form for every message."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a duration as text: '7 s', '2 min 05 s' or '3 h 20 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
