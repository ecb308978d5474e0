"""Pulls of request logs."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.api.pages import PAGE, PAGED
from avinet.controller.node import Node
from avinet.errors import NotFound
from avinet.rest.route import Reply, Request, Route
from avinet.rest.streaming import Streamed
from avinet.wire.log_pulls import LogPull, LogPullList, LogPullOrder, LogPullSeen


class LogPullsApi:
    """What operators have pulled, and how far it is."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def begin(self, request: Request) -> Reply:
        """Begin one on several service engines."""
        order = request.decoded(LogPullOrder)
        targets = self._node.orders.targets(order)
        begun = await self._node.logs.pulls.begin(order, targets, request.identity)
        self._node.tasks.spawn(self._node.logs.queries.get_ready(), "starting the process that answers queries")
        return Reply(202, begun)

    async def pulls(self, request: Request) -> Reply:
        """The pulls, the latest first."""
        limit = request.number("limit", 50, PAGE) or 1
        return Reply(200, await self._node.logs.pulls.latest(limit=limit, before=request.query.get("after", "")))

    async def pull(self, request: Request) -> Reply:
        """One, and how far it is on each service engine."""
        return Reply(200, await self._node.logs.pulls.show(_id(request)))

    async def progress(self, request: Request) -> Streamed:
        """One while it runs."""
        return Streamed(await self._node.logs.pulls.follow(_id(request)))

    async def cancel(self, request: Request) -> Reply:
        """End it; what was fetched stays."""
        await self._node.logs.pulls.cancel(_id(request), request.identity)
        return Reply(204)


def _id(request: Request) -> str:
    id = request.arguments["id"]
    if len(id) > 64 or not id.isascii():
        raise NotFound("there is no such pull", hint="see avictl logs pulls")
    return id


def log_pull_routes(node: Node) -> Sequence[Route]:
    """The routes of pulls."""
    do, one = LogPullsApi(node), "/v1/log-pulls/<id>"
    return [
        Route(
            "POST",
            "/v1/log-pulls",
            do.begin,
            "Pull request logs of several service engines",
            LogPullOrder,
            LogPull,
            status=202,
            limit_bytes=256 * 1024,
        ),
        Route("GET", "/v1/log-pulls", do.pulls, "The pulls, the latest first", gives=LogPullList, query=PAGED),
        Route("GET", one, do.pull, "A pull, and how far it is", gives=LogPullSeen),
        Route("GET", one + "/progress", do.progress, "A pull while it runs", streams=LogPullSeen),
        Route("POST", one + "/cancellation", do.cancel, "End it; what was fetched stays", status=204),
    ]
