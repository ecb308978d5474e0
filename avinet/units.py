"""Floor 0: sizes and durations as people write them: `64 KiB`, `10s`, `7d`."""

from __future__ import annotations

import re

from avinet.errors import Invalid

_BYTES: dict[str, float] = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECONDS = {
    "": 1.0,
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "y": 31536000.0,
}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z")


def _parse(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = _QUANTITY.match(text)
    if match is None or match[2].lower() not in units:
        raise Invalid(f"{text!r} is not a {what}", hint=f"write it as {example}")
    return float(match[1]) * units[match[2].lower()]


def parse_bytes(text: str) -> int:
    """A number of bytes from `4096`, `64 KiB` or `2 GB`. Raises `Invalid`."""
    return int(_parse(text, _BYTES, "size", "64 KiB or 2 GB"))


def parse_seconds(text: str) -> float:
    """A duration in seconds from `10`, `500ms`, `15s`, `5m`, `1h`, `7d`, `2w` or `1y` (365 days). Raises `Invalid`."""
    return _parse(text, _SECONDS, "duration", "15s, 5m or 7d")


def format_bytes(count: float) -> str:
    """`count` bytes with a binary unit, as `512 B` or `1.5 MiB`."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """`seconds` in its two largest units, as `850ms`, `12s` or `3h 5m`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    shown = [f"{value}{unit}" for value, unit in parts if value]
    return " ".join(shown[:2])
