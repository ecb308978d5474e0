"""Significant records of requests, as they come."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.node import Node
from avinet.ids import parse_id
from avinet.labels import parse_selector
from avinet.rest.route import Request, Route
from avinet.rest.streaming import Streamed
from avinet.wire.significant import SeenEvent

MOST = 10_000


class SignificantApi:
    """What operators follow of the requests that went wrong."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def seen(self, request: Request) -> Streamed:
        """The last ones that this node has seen, and with `follow` those that come."""
        query, directory = request.query, self._node.directory
        ids = {directory.require(parse_id(each)).id for each in query.get("ids", "").split(",") if each}
        selector = parse_selector(query.get("label", ""))
        name = parse_id(query["service"]) if query.get("service") else ""

        def wanted(id: str, service: str) -> bool:
            if (ids and id not in ids) or (name and service != name):
                return False
            record = directory.get(id) if selector.terms else None
            return not selector.terms or (record is not None and selector.matches(record.labels))

        follow = bool(request.number("follow", 0, 1))
        return Streamed(self._node.logs.recent.read(wanted, request.number("lines", 20, MOST), follow=follow))


def significant_routes(node: Node) -> Sequence[Route]:
    """The routes of significant records."""
    do = SignificantApi(node)
    return [
        Route(
            "GET",
            "/v1/significant-logs",
            do.seen,
            "Significant records of requests, the last ones and those that come",
            query=("ids", "label", "service", "lines", "follow"),
            streams=SeenEvent,
        )
    ]
