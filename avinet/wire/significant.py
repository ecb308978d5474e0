"""Significant records of requests on their way: from a service engine to its node, and from there to who follows them.

They go before the others, which wait for a pull; each of them is among those too. What is held back is counted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw

from avinet.wire.message import Count, Id, Line, Message, UnixTime

BATCH_LIMIT_BYTES = 512 * 1024
BATCH_BYTES = 256 * 1024
"""What the records of a batch have at most."""
BATCH = 500
"""How many records are in a batch at most."""
HELD_LIMIT = 1024
Why = Literal["status", "slow", "refused", "server-change"]
HeldReason = Literal["throttle", "full", "refused"]
Service = Annotated[str, Meta(pattern=r"^(?:[a-z0-9][a-z0-9-]{0,62})?$(?!\n)", description="an id, or empty")]
"""The name of a virtual service; empty: of several, of which there are too many to name them."""


class HeldBack(Message, frozen=True, kw_only=True):
    """So many significant records of a virtual service do not come at once: more than its limit (`throttle`), there was
    no room to let them wait for a tunnel (`full`), or the node did not take them (`refused`).
    """

    service: Service
    reason: HeldReason
    records: Count


class Significant(Message, frozen=True, kw_only=True):
    """A record, as the line that its data plane has written (`avinet.wire.log`), and why it is significant."""

    why: Annotated[list[Why], Meta(min_length=1, max_length=4)]
    record: Raw


class SignificantBatch(Message, frozen=True, kw_only=True):
    """What came since the batch before; `seq` counts the batches of one boot. One that had no answer is sent again as
    it was, and counts once.
    """

    boot: Line
    seq: Count
    records: Annotated[list[Significant], Meta(max_length=BATCH)] = []
    held_back: Annotated[list[HeldBack], Meta(max_length=HELD_LIMIT)] = []


class SeenRecord(Message, frozen=True, kw_only=True, tag_field="event", tag="record"):
    """A significant record of the service engine `id`: its columns by their names, but for `seq`."""

    id: Id
    received: UnixTime
    why: list[Why]
    record: dict[str, int | str]


class SeenHeldBack(Message, frozen=True, kw_only=True, tag_field="event", tag="held_back"):
    """So many records of a service engine were held back there; see `HeldBack`."""

    id: Id
    received: UnixTime
    service: Service
    reason: HeldReason
    records: Count


class SeenLeftOut(Message, frozen=True, kw_only=True, tag_field="event", tag="left_out"):
    """So many events are missing here: whoever reads takes them too slowly."""

    events: Count


SeenEvent = SeenRecord | SeenHeldBack | SeenLeftOut
