"""Segments: sealed, immutable pieces of the request log of a service engine, and what is missing of it.

A manifest lies beside each segment and vouches for it. What is missing is told as gaps, never by silence: their number
is bounded by merging them, by which none of the records that they count is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from avinet.errors import Invalid
from avinet.wire.message import Count, Id, Message, Sha256, decode, encode

GAPS = 256
"""How many gaps are in one manifest at most."""
SERVICES = 1000
NAME_LENGTH = 64
MANIFEST_LIMIT_BYTES = 512 * 1024

Millis = Annotated[int, Meta(ge=0, lt=2**53, description="milliseconds since 1970-01-01T00:00:00Z")]
Number = Annotated[int, Meta(ge=1, le=2**63 - 1, description="the sequence number of a record")]
Reason = Literal["parse", "dropped", "full", "cap", "crash"]


class Gap(Message, frozen=True, kw_only=True):
    """Behind the record `after` there are `records` missing, of between `from_ms` and `to_ms`; None: nobody knows.

    `parse`: lines that are no records; `dropped`: by HAProxy; `full`: no room to buffer or to write them; `cap`: these
    had numbers, and were removed before they were pulled; `crash`: of the service engine or of HAProxy. Records that
    never had a number use none: what comes next has the number `after` + 1.
    """

    after: Count
    records: Count | None = None
    reason: Reason
    from_ms: Millis
    to_ms: Millis


class Manifest(Message, frozen=True, kw_only=True):
    """A segment: the records `first` to `last` of a service engine, all of them, in a Parquet file of `bytes` bytes.

    `schema` is the version of its columns (`avinet.wire.log`). `services` counts the rows of each virtual service; the
    name that is empty stands for those of all others, when there are too many or their names are none. The times are
    those of its records.
    """

    format: Literal[1] = 1
    schema: Count
    engine: Id
    generation: Count
    first: Number
    last: Number
    rows: Number
    from_ms: Millis
    to_ms: Millis
    services: Annotated[dict[Annotated[str, Meta(max_length=NAME_LENGTH)], Count], Meta(max_length=SERVICES + 1)] = {}
    bytes: Count
    sha256: Sha256
    gaps: Annotated[list[Gap], Meta(max_length=GAPS)] = []


class Removed(Message, frozen=True, kw_only=True):
    """The records `first` to `last` of a generation, of between these times, which were in an archive."""

    gaps: ClassVar[Sequence[Gap]] = ()

    generation: Count
    first: Number
    last: Number
    from_ms: Millis
    to_ms: Millis


def merged(gaps: Iterable[Gap], limit: int = GAPS) -> list[Gap]:
    """`gaps` in their order, at most `limit` (5 or more): neighbours of one reason become one that spans both."""
    reasons: dict[str, list[Gap]] = {}
    for gap in sorted(gaps, key=_place):
        same = reasons.setdefault(gap.reason, [])
        if same and _touch(same[-1], gap):
            same[-1] = joined(same[-1], gap)
        else:
            same.append(gap)
    while sum(map(len, reasons.values())) > max(limit, len(reasons)):
        longest = max(reasons, key=lambda reason: len(reasons[reason]))
        same = reasons[longest]
        reasons[longest] = [
            joined(same[i], same[i + 1]) if i + 1 < len(same) else same[i] for i in range(0, len(same), 2)
        ]
    return sorted((gap for same in reasons.values() for gap in same), key=_place)


def joined(one: Gap, other: Gap) -> Gap:
    """Both as one gap, for the reason of the first."""
    known = one.records is not None and other.records is not None
    return Gap(
        after=min(one.after, other.after),
        records=(one.records or 0) + (other.records or 0) if known else None,
        reason=one.reason,
        from_ms=min(one.from_ms, other.from_ms),
        to_ms=max(one.to_ms, other.to_ms),
    )


def _touch(one: Gap, other: Gap) -> bool:
    """Whether nothing is between them, so that one gap says what both do. What nobody can count stays apart."""
    if one.records is None or other.records is None:
        return False
    reach = one.after + (one.records if one.reason == "cap" else 0)
    return reach == other.after


def _place(gap: Gap) -> tuple[int, int, int]:
    return gap.after, gap.from_ms, gap.to_ms


def read_manifest(data: bytes) -> Manifest:
    """The manifest in `data`. Raises `Invalid` or `TooLarge`: also when its numbers contradict one another."""
    manifest = decode(data, Manifest, limit_bytes=MANIFEST_LIMIT_BYTES, what="manifest")
    if manifest.last - manifest.first + 1 != manifest.rows:
        raise Invalid("the manifest is not valid: it has not as many rows as numbers")
    if manifest.from_ms > manifest.to_ms or sum(manifest.services.values()) != manifest.rows:
        raise Invalid("the manifest is not valid: its rows or times contradict one another")
    return manifest


def with_limits(manifest: Manifest) -> Manifest:
    """`manifest` with no more services and gaps than it may have."""
    fit = {name: rows for name, rows in manifest.services.items() if len(name) <= NAME_LENGTH}
    services = dict(sorted(fit.items(), key=lambda each: (-each[1], each[0]))[:SERVICES])
    if rest := sum(manifest.services.values()) - sum(services.values()):
        services[""] = services.get("", 0) + rest
    return msgspec.structs.replace(manifest, services=services, gaps=merged(manifest.gaps))


def manifest_bytes(manifest: Manifest) -> bytes:
    """`manifest` as it is on the disk and on the wire."""
    return encode(manifest)
