"""What the spool asks its sealer for, and what that answers: one JSON line each."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.logs.spool.losses import Loss
from avinet.wire.message import Count, Id, Message
from avinet.wire.segment import Gap, Manifest, Number

LINE_BYTES = 1024 * 1024
"""The longest line of either."""


class Order(Message, frozen=True, kw_only=True):
    """Seal the first `size` bytes of the open file `first` in `folder`: `lines` lines, with `losses` among them."""

    folder: Annotated[str, Meta(max_length=4096)]
    first: Number
    lines: Count
    size: Count
    engine: Id
    generation: Count
    losses: list[Loss] = []


class Sealed(Message, frozen=True, kw_only=True):
    """The segment that there is now; `unfit` lines were no records, and are among its gaps.

    Without a `manifest` there is none, as no line was a record, and `gaps` are to be told elsewhere. With an `error`
    nothing was done.
    """

    manifest: Manifest | None = None
    unfit: Count = 0
    gaps: list[Gap] = []
    error: str = ""
