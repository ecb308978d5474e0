"""Queries of request logs."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.node import Node
from avinet.rest.route import Reply, Request, Route
from avinet.wire.answer import LogAnswer
from avinet.wire.query import QUERY_LIMIT_BYTES, LogQuery


class LogQueriesApi:
    """What operators ask of request logs."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ask(self, request: Request) -> Reply:
        """Answer a query, and say what is missing in the answer."""
        return Reply(200, await self._node.log_queries.ask(request.decoded(LogQuery)))


def log_query_routes(node: Node) -> Sequence[Route]:
    """The routes of queries."""
    do = LogQueriesApi(node)
    return [
        Route(
            "POST",
            "/v1/log-queries",
            do.ask,
            "Ask the request logs",
            LogQuery,
            LogAnswer,
            limit_bytes=QUERY_LIMIT_BYTES,
        ),
    ]
