"""The node at a glance, its trust document, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from twisted.logger import Logger

from avinet.controller.api.pages import PAGE
from avinet.controller.node import CONTROL_SERVICES, Node
from avinet.errors import Unavailable
from avinet.rest.route import Reply, Request, Route
from avinet.wire.audit import LogEntries, LogHead, LogProof
from avinet.wire.fleet import Event, EventList, Status
from avinet.wire.trust import SignedTrust


class Overview:
    """What a node says of itself and of its domain."""

    log = Logger()

    def __init__(self, node: Node) -> None:
        self._node = node

    async def status(self, request: Request) -> Reply:
        """The node and its fleet in one view."""
        status = await self._node.overview.status()
        return Reply(200, msgspec.structs.replace(status, rollouts=self._node.rollouts.known()))

    async def trust(self, request: Request) -> Reply:
        """The trust document."""
        return Reply(200, self._node.standing.signed)

    async def events(self, request: Request) -> Reply:
        """The audit log, up to this moment; `kind`, `id`, `since` and `alarms` say which records of it."""
        query, log = request.query, self._node.audit
        limit, since = request.number("limit", 100, PAGE) or 1, request.number("since", 0, 2**40)
        kind, id, alarms = query.get("kind", ""), query.get("id", ""), bool(request.number("alarms", 0, 1))

        def wanted(event: Event) -> bool:
            return (
                (not kind or event.kind == kind)
                and (not id or id in (event.id, event.image))
                and (event.alarm or not alarms)
            )

        try:
            await log.seal()
        except Unavailable as error:  # what is sealed can be read all the same
            self.log.warn("the audit log is shown as it was last sealed: {why}", why=str(error))
        return Reply(200, await log.events(query.get("after", ""), limit, wanted, since))

    async def log_head(self, request: Request) -> Reply:
        """The signed head of the audit log."""
        return Reply(200, (await self._node.audit.seal()).head)

    async def log_entries(self, request: Request) -> Reply:
        """The leaves of the audit log, from a number on."""
        first, limit = request.number("first", 0, 2**48), request.number("limit", 100, PAGE) or 1
        items = await self._node.audit.entries(first, limit)
        return Reply(200, LogEntries(first=first, items=[each.decode("utf-8") for each in items]))

    async def log_proof(self, request: Request) -> Reply:
        """The proof that the audit log begins with one of `first` records."""
        first, head = request.number("first", 0, 2**48), await self._node.audit.head()
        hashes = await self._node.audit.proof(first, head.size)
        return Reply(200, LogProof(first=first, size=head.size, root=head.root, hashes=hashes))

    async def authorized_keys(self, request: Request) -> Reply:
        """The keys of `aviseuser` in OpenSSH's format."""
        text = self._node.directory.authorized_keys(CONTROL_SERVICES, ["control:80", "api:80", "logs:80", "ssh:22"])
        return Reply(200, text.encode("ascii"), {"content-type": "text/plain; charset=utf-8"})


def overview_routes(node: Node) -> Sequence[Route]:
    """The routes of the node and the audit log."""
    do = Overview(node)
    return [
        Route("GET", "/v1/status", do.status, "The node and its fleet", gives=Status),
        Route("GET", "/v1/trust", do.trust, "The trust document", gives=SignedTrust),
        Route(
            "GET",
            "/v1/events",
            do.events,
            "The audit log",
            gives=EventList,
            query=("limit", "after", "kind", "id", "since", "alarms"),
        ),
        Route("GET", "/v1/log/head", do.log_head, "The signed head of the audit log", gives=LogHead),
        Route("GET", "/v1/log/entries", do.log_entries, "Its leaves", gives=LogEntries, query=("first", "limit")),
        Route("GET", "/v1/log/consistency", do.log_proof, "That it only grew", gives=LogProof, query=("first",)),
        Route("GET", "/v1/authorized-keys", do.authorized_keys, "The keys of aviseuser", gives=bytes),
    ]
