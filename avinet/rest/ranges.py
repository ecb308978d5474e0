"""Byte ranges of a whole that does not change (RFC 9110, section 14): one range, or all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*\Z", re.IGNORECASE)


class Unsatisfiable(ValueError):
    """There is no such byte."""


def wanted(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """The bytes from the first to before the second number that `Range` asks for; None: all of it.

    What is no single range, or meant for another whole (`If-Range`), is all of it. Raises `Unsatisfiable`.
    """
    found = _RANGE.match(headers.get("range", ""))
    if found is None or headers.get("if-range", etag).strip() != etag:
        return None
    first, last = found.groups()
    if not first:
        if not last:
            return None
        if not int(last) or not size:
            raise Unsatisfiable
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable
    return int(first), min(size, int(last) + 1) if last else size


def content_range(first: int, end: int, size: int) -> str:
    """The header of an answer that has the bytes from `first` to before `end`."""
    return f"bytes {first}-{end - 1}/{size}"


_CONTENT = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\Z")


def read_content_range(text: str) -> tuple[int, int, int] | None:
    """What `content_range` was made of; None for what is none."""
    found = _CONTENT.match(text)
    if found is None:
        return None
    first, last, size = (int(each) for each in found.groups())
    return (first, last + 1, size) if first <= last < size else None
