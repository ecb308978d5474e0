"""Queries of request logs, and those that are kept."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.api.matching import expected
from avinet.controller.api.pages import PAGE, PAGED
from avinet.controller.node import Node
from avinet.rest.route import Reply, Request, Route
from avinet.wire.answer import LogAnswer
from avinet.wire.query import QUERY_LIMIT_BYTES, LogQuery
from avinet.wire.saved_query import SAVED_LIMIT_BYTES, LogQuestion, SavedQuery, SavedQueryList


class LogQueriesApi:
    """What operators ask of request logs."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ask(self, request: Request) -> Reply:
        """Answer a query, and say what is missing in the answer."""
        return Reply(200, await self._node.logs.queries.ask(request.decoded(LogQuery)))

    async def saved(self, request: Request) -> Reply:
        """The queries that are kept."""
        limit, after = request.number("limit", 100, PAGE) or 1, request.query.get("after", "")
        return Reply(200, await self._node.logs.saved.list(limit=limit, after=after))

    async def one(self, request: Request) -> Reply:
        """One that is kept."""
        return _tagged(await self._node.logs.saved.get(request.arguments["name"]))

    async def save(self, request: Request) -> Reply:
        """Keep one, or replace it."""
        question = request.decoded(LogQuestion)
        name, author = request.arguments["name"], request.identity
        return _tagged(await self._node.logs.saved.put(name, question, author, expected=expected(request)))

    async def forget(self, request: Request) -> Reply:
        """Delete one."""
        name, author = request.arguments["name"], request.identity
        await self._node.logs.saved.delete(name, author, expected=expected(request))
        return Reply(204)


def _tagged(saved: SavedQuery) -> Reply:
    return Reply(200, saved, {"etag": f'"{saved.version}"'})


def log_query_routes(node: Node) -> Sequence[Route]:
    """The routes of queries."""
    do, one = LogQueriesApi(node), "/v1/saved-log-queries/<name>"
    return [
        Route(
            "POST",
            "/v1/log-queries",
            do.ask,
            "Ask the request logs",
            LogQuery,
            LogAnswer,
            limit_bytes=QUERY_LIMIT_BYTES,
            droppable=True,
        ),
        Route("GET", "/v1/saved-log-queries", do.saved, "The queries that are kept", gives=SavedQueryList, query=PAGED),
        Route("GET", one, do.one, "One of them", gives=SavedQuery),
        Route("PUT", one, do.save, "Keep one", LogQuestion, SavedQuery, limit_bytes=2 * SAVED_LIMIT_BYTES),
        Route("DELETE", one, do.forget, "Delete one", status=204),
    ]
