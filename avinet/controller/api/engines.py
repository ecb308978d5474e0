"""Service engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.protocol import Factory

from avinet.config.compile import Target
from avinet.controller.api.pages import PAGE, PAGED
from avinet.controller.node import Node
from avinet.controller.sessions import Session
from avinet.errors import Invalid
from avinet.relay import Relay
from avinet.rest.route import Pipe, Reply, Request, Route
from avinet.trust import keys
from avinet.wire.command import OperatorKey
from avinet.wire.fleet import (
    Claimed,
    Compiled,
    Engine,
    EngineCreate,
    EngineList,
    EnginesCreated,
    KeyAdmission,
    KeyAdmitted,
    LabelChange,
)

KEY_LIFE_S = 300.0


class EnginesApi:
    """What operators see of service engines, and do with them."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def engines(self, request: Request) -> Reply:
        """Service engines in the order of their ids."""
        limit, after = request.number("limit", 100, PAGE) or 1, request.query.get("after", "")
        key, _, value = request.query.get("label", "").partition("=")
        found = [
            each for each in self._node.directory if each.id > after and (not key or each.labels.get(key) == value)
        ]
        items = [self._node.overview.engine(each) for each in found[:limit]]
        return Reply(200, EngineList(items=items, next=items[-1].id if len(found) > limit else ""))

    async def create(self, request: Request) -> Reply:
        """Expect service engines, and have the driver start them."""
        return Reply(
            201, EnginesCreated(items=await self._node.orders.create(request.decoded(EngineCreate), request.identity))
        )

    async def engine(self, request: Request) -> Reply:
        """One service engine, with health and traffic."""
        record = self._node.directory.require(request.arguments["id"])
        return Reply(200, self._node.overview.engine(record, whole=True))

    async def label(self, request: Request) -> Reply:
        """Change labels."""
        change = request.decoded(LabelChange)
        old = self._node.directory.require(request.arguments["id"])
        id = old.id
        labels = {key: value for key, value in old.labels.items() if key not in change.remove} | change.set
        await self._node.documents.check(Target(id, labels))
        record = await self._node.engines.label(id, request.identity, change.set, change.remove)
        return Reply(200, self._node.overview.engine(record, whole=True))

    async def revoke(self, request: Request) -> Reply:
        """Let its key open nothing any more, and end its session."""
        record = await self._node.engines.revoke(
            self._node.directory.require(request.arguments["id"]).id, request.identity
        )
        self._node.sessions.cut(record.id, "the key was revoked")
        return Reply(200, self._node.overview.engine(record))

    async def reset(self, request: Request) -> Reply:
        """Expect it anew, in its next generation, and end its session."""
        record = self._node.directory.require(request.arguments["id"])
        claimed = await self._node.instances.reset(record, request.identity)
        self._node.sessions.cut(record.id, "the service engine was reset")
        return Reply(200, claimed)

    async def rotate(self, request: Request) -> Reply:
        """Have it change its key."""
        record = self._node.directory.require(request.arguments["id"])
        await self._node.reverse.rotate(record.id)
        return Reply(200, self._node.overview.engine(self._node.directory.require(request.arguments["id"])))

    async def delete(self, request: Request) -> Reply:
        """Drain it, end it, forget it."""
        drain_s = float(request.number("drain_s", 5, 3600))
        await self._node.orders.delete(self._node.directory.require(request.arguments["id"]), request.identity, drain_s)
        return Reply(204)

    async def engine_configuration(self, request: Request) -> Reply:
        """What it should run, and what it said it runs."""
        id, desired = self._node.directory.require(request.arguments["id"]).id, self._node.desired
        compiled = desired.compiled(id)
        return Reply(
            200,
            Compiled(
                id=id,
                desired=desired.version(id),
                config=compiled.config if compiled else None,
                state=self._node.states.get(id),
            ),
        )

    async def admit_key(self, request: Request) -> Reply:
        """Let an operator's key log in to its SSH service for 5 minutes."""
        record, line = self._node.directory.require(request.arguments["id"]), request.decoded(KeyAdmission).public_key
        keys.parse_public_line(line)
        key = OperatorKey(public_key=line, operator=request.identity, expires=self._node.now() + KEY_LIFE_S)
        await self._node.reverse.admit(record.id, key)
        return Reply(200, KeyAdmitted(user="avictlruser", host_key=record.host_key, expires=key.expires))

    async def pipe(self, request: Request) -> Reply | Pipe:
        """A byte pipe to one of its services."""
        if request.headers.get("upgrade", "").lower() != "avinet-pipe":
            raise Invalid("this is a byte pipe", hint="ask with Upgrade: avinet-pipe, or use avictl connect")
        session: Session = self._node.sessions.get(self._node.directory.require(request.arguments["id"]).id)
        service = request.arguments["service"]
        name = {"ssh": "ssh:22"}.get(service, service if ":" in service else f"{service}:80")
        factory = Factory.forProtocol(Relay)
        factory.noisy = False
        far: Any = await session.tunnel.endpoint(name).connect(factory)
        return Pipe(far)


def engine_routes(node: Node) -> Sequence[Route]:
    """The routes of service engines."""
    do = EnginesApi(node)
    all, engine = "/v1/service-engines", "/v1/service-engines/<id>"
    return [
        Route("GET", all, do.engines, "All service engines", gives=EngineList, query=(*PAGED, "label")),
        Route("POST", all, do.create, "Create service engines", EngineCreate, EnginesCreated, status=201),
        Route("GET", engine, do.engine, "One service engine", gives=Engine),
        Route("PATCH", engine, do.label, "Change its labels", LabelChange, Engine),
        Route("DELETE", engine, do.delete, "Drain, end and forget it", status=204, query=("drain_s",)),
        Route("POST", engine + "/revocation", do.revoke, "Revoke its key", gives=Engine),
        Route("POST", engine + "/reset", do.reset, "Expect it anew, with another key", gives=Claimed),
        Route("POST", engine + "/key-rotation", do.rotate, "Have it change its key", gives=Engine),
        Route("GET", engine + "/configuration", do.engine_configuration, "Desired and applied", gives=Compiled),
        Route("POST", engine + "/ssh-keys", do.admit_key, "Admit an SSH key for 5 minutes", KeyAdmission, KeyAdmitted),
        Route("GET", engine + "/services/<service>", do.pipe, "A byte pipe to a service", status=101),
    ]
