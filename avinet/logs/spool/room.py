"""How much of the spool is kept: what goes first when there is no room. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avinet.wire.segment import Manifest


def surplus(segments: Sequence[Manifest], size: int, cap_bytes: int, old: Callable[[Manifest], bool]) -> int:
    """How many of the oldest `segments` have to go, of a spool of `size` bytes in all that may have `cap_bytes`.

    Those go that are `old`, too. As nodes acknowledge from the oldest on, those that are acknowledged are
    the first to go.
    """
    count = 0
    for segment in segments:
        if size <= cap_bytes and not old(segment):
            break
        size -= segment.bytes
        count += 1
    return count


def chosen(segments: Sequence[Manifest], after: int, since_ms: int | None, until_ms: int | None) -> list[Manifest]:
    """Those of `segments` with records behind the number `after`, of the time from `since_ms` up to `until_ms`."""
    return [
        segment
        for segment in segments
        if segment.last > after
        and (since_ms is None or segment.to_ms >= since_ms)
        and (until_ms is None or segment.from_ms < until_ms)
    ]
