"""Root CAs, and the keys of this node."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.node import Node
from avinet.errors import NotFound
from avinet.rest.route import Reply, Request, Route
from avinet.wire.succession import NodeKeys, RootAdd, RootList, Succession, SuccessionOrder


class SuccessionApi:
    """What operators do about what the fleet believes."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def roots(self, request: Request) -> Reply:
        """The root CAs that the fleet believes."""
        return Reply(200, self._node.roots.shown())

    async def add_root(self, request: Request) -> Reply:
        """Have the fleet believe a root CA that is to follow."""
        wanted = request.decoded(RootAdd)
        return Reply(200, await self._node.roots.add(wanted.issuing_ca, request.identity))

    async def use_root(self, request: Request) -> Reply:
        """Put this node under a root CA."""
        order = request.decoded(SuccessionOrder)
        return Reply(200, await self._node.roots.use(request.arguments["fingerprint"], order, request.identity))

    async def retire_root(self, request: Request) -> Reply:
        """Have the fleet believe a root CA no longer."""
        order = request.decoded(SuccessionOrder)
        return Reply(200, await self._node.roots.retire(request.arguments["fingerprint"], order, request.identity))

    def _mine(self, request: Request) -> None:
        id = self._node.standing.domain.node
        if request.arguments["id"] != id:
            raise NotFound(f"this is node {id}", hint="ask the node itself whose keys they are")

    async def keys(self, request: Request) -> Reply:
        """The keys of this node."""
        self._mine(request)
        return Reply(200, self._node.keys.shown())

    async def rotate_keys(self, request: Request) -> Reply:
        """Make keys of this node that are to follow."""
        self._mine(request)
        return Reply(200, await self._node.keys.rotate(request.identity))

    async def use_keys(self, request: Request) -> Reply:
        """Use the keys that are to follow now."""
        self._mine(request)
        return Reply(200, await self._node.keys.finish(request.decoded(SuccessionOrder), request.identity))


def succession_routes(node: Node) -> Sequence[Route]:
    """The routes of root CAs and of node keys."""
    do = SuccessionApi(node)
    return [
        Route("GET", "/v1/roots", do.roots, "The root CAs that the fleet believes", gives=RootList),
        Route("POST", "/v1/roots", do.add_root, "Add one that is to follow", RootAdd, RootList),
        Route("POST", "/v1/roots/<fingerprint>/use", do.use_root, "Be under it", SuccessionOrder, Succession),
        Route("POST", "/v1/roots/<fingerprint>/retirement", do.retire_root, "Retire it", SuccessionOrder, Succession),
        Route("GET", "/v1/nodes/<id>/keys", do.keys, "The keys of a node", gives=NodeKeys),
        Route("POST", "/v1/nodes/<id>/keys", do.rotate_keys, "Make keys that are to follow", gives=NodeKeys),
        Route("POST", "/v1/nodes/<id>/keys/use", do.use_keys, "Use them now", SuccessionOrder, Succession),
    ]
