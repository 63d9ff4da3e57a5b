"""Numbers for people."""

from __future__ import annotations

from datetime import datetime, timezone


def size(count: float) -> str:
    """Bytes for people: 31.6 MB."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds for people: 3 h."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def since(moment: str) -> str:
    # Python 3.9 reads no fraction of a second but of three or six digits; none of these has one.
    return duration((datetime.now(timezone.utc) - datetime.fromisoformat(moment)).total_seconds())
