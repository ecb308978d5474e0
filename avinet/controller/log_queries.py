"""Queries of request logs, as a node answers them: of which service engines, for how long, in which process."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred

from avinet.enrolment.records import EngineRecord
from avinet.errors import AvinetError, NotFound, TooLarge
from avinet.labels import parse_selector
from avinet.wire.answer import LogAnswer
from avinet.wire.query import ENGINES, LogQuery, Measure, Totals

_NOTHING = LogQuery(since_ms=0, until_ms=1, get=Totals(measures=[Measure(of="requests")]))


class Asks(Protocol):
    """The process that answers; see `avinet.logs.query.client.QueryWorker`."""

    def ask(self, query: LogQuery, limit_s: float, known: Iterable[str] = ()) -> Awaitable[LogAnswer]:
        """The answer to `query` within `limit_s`."""

    def stop(self) -> Deferred[None]:
        """Answer nothing any more."""


class LogQueries:
    """Answers queries, each within `limit_s`, by asking `worker`; `records` has all service engines."""

    def __init__(self, worker: Asks, records: Callable[[], Iterable[EngineRecord]], limit_s: float) -> None:
        self._worker = worker
        self._records = records
        self._limit_s = limit_s

    async def ask(self, query: LogQuery) -> LogAnswer:
        """The answer to `query`.

        Raises `NotFound` where its label expression matches no service engine, `TooLarge` where too many, `Invalid`,
        and what `QueryWorker.ask` raises.
        """
        known = (each.id for each in self._records() if each.state == "enrolled")
        return await self._worker.ask(self._named(query), self._limit_s, known)

    async def get_ready(self) -> None:
        """Have the process started: somebody will ask before long. What is wrong with it is told when they do."""
        with contextlib.suppress(AvinetError):
            await self._worker.ask(_NOTHING, self._limit_s)

    def _named(self, query: LogQuery) -> LogQuery:
        """`query` with the service engines that its label expression matches, whatever their state: by their ids."""
        if not query.selector.strip(" ,"):
            return msgspec.structs.replace(query, selector="")
        selector = parse_selector(query.selector)
        found = [each.id for each in self._records() if selector.matches(each.labels)]
        if not found:
            raise NotFound(f"no service engine matches {query.selector}", hint="see avictl se list")
        if len(found) > ENGINES:
            raise TooLarge(f"{len(found)} service engines match {query.selector}, and a query may be of {ENGINES}")
        return msgspec.structs.replace(query, selector="", engines=found)

    async def stop(self) -> None:
        """Answer nothing any more, and wait until the process is gone."""
        await self._worker.stop()
