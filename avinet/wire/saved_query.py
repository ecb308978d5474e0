"""Queries of request logs whose times may be relative, and those that are kept under a name."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.errors import Invalid
from avinet.labels import LIMIT_CHARS
from avinet.wire.message import Count, Id, Line, Message, UnixTime
from avinet.wire.query import ENGINES, QUERY_LIMIT_BYTES, VALUES, Filter, LogQuery, Millis, Shape

SAVED_LIMIT_BYTES = QUERY_LIMIT_BYTES // 4
"""What one takes at most, as JSON: it is a value in the store."""


class When(Message, frozen=True, kw_only=True):
    """A time: so many milliseconds before a query is asked (`ago_ms`), or always the same (`at_ms`)."""

    ago_ms: Millis | None = None
    at_ms: Millis | None = None

    def __post_init__(self) -> None:
        if (self.ago_ms is None) == (self.at_ms is None):
            raise ValueError("a time is either ago_ms or at_ms")

    def of(self, now_ms: int) -> int:
        """The time that is meant at `now_ms`, not before 1970."""
        return self.at_ms if self.at_ms is not None else max(0, now_ms - (self.ago_ms or 0))


class LogQuestion(Message, frozen=True, kw_only=True):
    """A query as `LogQuery`, from `since` until before `until`."""

    since: When
    until: When = When(ago_ms=0)
    engines: Annotated[list[Id], Meta(max_length=ENGINES)] = []
    selector: Annotated[str, Meta(max_length=LIMIT_CHARS)] = ""
    services: Annotated[list[Id], Meta(max_length=VALUES)] = []
    filters: Annotated[list[Filter], Meta(max_length=32)] = []
    get: Shape

    def asked(self, now_ms: int) -> LogQuery:
        """The query that this is at `now_ms`. Raises `Invalid` for one that cannot be."""
        try:
            return LogQuery(
                since_ms=self.since.of(now_ms),
                until_ms=self.until.of(now_ms),
                engines=self.engines,
                selector=self.selector,
                services=self.services,
                filters=self.filters,
                get=self.get,
            )
        except ValueError as error:
            raise Invalid(f"the query is not valid: {error}") from error


class SavedQuery(Message, frozen=True, kw_only=True):
    """A query that was kept under `name`, in its current version."""

    name: Id
    version: Count
    author: Line
    time: UnixTime
    question: LogQuestion


class SavedQueryList(Message, frozen=True, kw_only=True):
    """A page of what is kept, by name; `next` is where the next page begins."""

    items: list[SavedQuery]
    next: str = ""
