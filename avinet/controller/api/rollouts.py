"""Roll-outs of documents."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.api.jobs import LONGEST_WAIT_S
from avinet.controller.api.matching import expected
from avinet.controller.node import Node
from avinet.ids import parse_id
from avinet.rest.route import Reply, Request, Route
from avinet.wire.config import DOCUMENT_LIMIT_BYTES
from avinet.wire.fleet import DocumentApplied
from avinet.wire.rollout import Promotion, Rollout, RolloutList, RolloutOrder


class RolloutApi:
    """New versions of documents that come to their service engines in batches."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def begin(self, request: Request) -> Reply:
        """Begin to roll a document out."""
        order = request.decoded(RolloutOrder)
        done = await self._node.documents.apply(
            order.document, request.identity, expected=expected(request), plan=order.plan, force=order.force
        )
        self._node.rollouts.wake()
        return Reply(202, done)

    async def rollouts(self, request: Request) -> Reply:
        """The last roll-out of each document, those under way first."""
        return Reply(200, await self._node.rollouts.latest())

    async def rollout(self, request: Request) -> Reply:
        """The last roll-out of a document; where its tag is `seen`, the answer waits for another state of it."""
        wait_s = request.number("wait_s", 0, LONGEST_WAIT_S)
        return Reply(200, await self._node.rollouts.show(_name(request), request.query.get("seen", ""), wait_s))

    async def pause(self, request: Request) -> Reply:
        """Open no more batches."""
        return Reply(200, await self._node.rollouts.pause(_name(request), request.identity))

    async def resume(self, request: Request) -> Reply:
        """Go on."""
        return Reply(200, await self._node.rollouts.resume(_name(request), request.identity))

    async def promote(self, request: Request) -> Reply:
        """Open the next batch, or all that are left, now."""
        everybody = request.decoded(Promotion).all
        return Reply(200, await self._node.rollouts.promote(_name(request), request.identity, all=everybody))

    async def abort(self, request: Request) -> Reply:
        """Take it back."""
        return Reply(200, await self._node.rollouts.abort(_name(request), request.identity))


def _name(request: Request) -> str:
    return parse_id(request.arguments["name"], "name")


def rollout_routes(node: Node) -> Sequence[Route]:
    """The routes of roll-outs."""
    do, one = RolloutApi(node), "/v1/rollouts/<name>"
    return [
        Route(
            "POST",
            "/v1/rollouts",
            do.begin,
            "Roll a document out in batches",
            RolloutOrder,
            DocumentApplied,
            status=202,
            limit_bytes=2 * DOCUMENT_LIMIT_BYTES,
        ),
        Route("GET", "/v1/rollouts", do.rollouts, "The last roll-out of each document", gives=RolloutList),
        Route("GET", one, do.rollout, "The last roll-out of a document", gives=Rollout, query=("seen", "wait_s")),
        Route("POST", one + "/pause", do.pause, "Open no more batches", gives=Rollout),
        Route("POST", one + "/resume", do.resume, "Go on", gives=Rollout),
        Route("POST", one + "/promote", do.promote, "Open the next batch, or all, now", Promotion, Rollout),
        Route("POST", one + "/abort", do.abort, "Take it back", gives=Rollout),
    ]
