"""All entries of a store, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from avinet.store.interface import Entry, Page

PAGE = 1000
"""How many keys are read at once."""


class Source(Protocol):
    """What entries are read from."""

    async def range(self, prefix: bytes, *, limit: int = PAGE, after: bytes = b"") -> Page:
        """See `Store.range`."""


async def entries(source: Source, prefix: bytes = b"", *, page: int = PAGE) -> AsyncIterator[Entry]:
    """All entries below `prefix` in the order of their keys, `page` of them read at once, each page as it is then."""
    after, more = b"", True
    while more:
        found = await source.range(prefix, limit=page, after=after)
        for entry in found.entries:
            after = entry.key
            yield entry
        more = found.more
