"""A data plane in a test: made, served with servers of the test's own, and what it says of them."""

from __future__ import annotations

import json
import ssl
from typing import Any

import msgspec
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.dataplane.interface import Dataplane
from avinet.dataplane.records import Record
from avinet.wire.config import Config, HealthCheck, Pool, Server, Tls, VirtualService
from avinet.wire.log import COLUMNS, SEQUENCE
from tests.dataplane.servers import WebServer, ask
from tests.dataplane.tls_client import Open, ask_tls, context
from tests.issuing import Issuer, rsa_key
from tests.running import eventually, free_port

CHECK = HealthCheck(kind="http", path="/", interval_ms=100, timeout_ms=500, rise=1, fall=1)
KEYS = [each.key for each in COLUMNS if each is not SEQUENCE]


def pool(name: str, *servers: WebServer, weights: tuple[int, ...] = (), **rest: Any) -> Pool:
    weighted = weights or (100,) * len(servers)
    members = [
        Server(name=each.name, address="127.0.0.1", port=each.port, weight=weight)
        for each, weight in zip(servers, weighted, strict=True)
    ]
    return Pool(name=name, servers=members, health_check=CHECK, **rest)


def fields(line: bytes) -> list[str]:
    """The keys of a line, as often as they are in it."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    return [key for key, _ in pairs]


class PlaneCase(TestCase):
    """`plane` is what `make` makes, with the `certificates` that it was `given`; `lines` what it has said."""

    @override
    def setUp(self) -> None:
        self.issuer = Issuer()
        self.client = context(self.issuer)
        self.certificates = {
            "shop": self.issuer.serve("shop.example"),
            "api": self.issuer.serve("api.example", "*.api.example", key=rsa_key()),
        }
        self.plane: Any = self.make()
        self.addCleanup(lambda: ensureDeferred(self.plane.shut_down(0.0)))
        self.listen()

    def make(self) -> Dataplane:
        raise NotImplementedError  # abstract

    def server(self, name: str) -> WebServer:
        server = WebServer(name)
        server.start()
        self.addCleanup(lambda: ensureDeferred(server.stop()))
        return server

    def service(self, port: int, **rest: Any) -> VirtualService:
        return VirtualService(name="web", address="127.0.0.1", port=port, **{"pool": "p", **rest})

    def up(self, *names: str) -> bool:
        found = {each.server for each in self.plane.health() if each.state == "up"}
        return found >= set(names)

    async def serve(self, config: Config, *names: str) -> None:
        """Start with `config`, and wait until the servers of these names are seen up."""
        await self.plane.start(config)
        await eventually(f"{names} are up", lambda: self.up(*names))

    async def names(self, port: int, count: int, path: str = "/", host: str = "example.net") -> list[str]:
        found = []
        for _ in range(count):
            status, body = await ask(port, path, host=host)
            self.assertEqual(status, 200)
            found.append(body.split()[0].decode())
        return found

    # certificates

    def given(self, plane: Dataplane) -> Any:
        """`plane`, with the certificates that it has before it is started."""
        for name, certificate in self.certificates.items():
            self.successResultOf(ensureDeferred(plane.take_certificate(name, certificate)))
        return plane

    def secured(self, port: int, *names: str, **rest: Any) -> VirtualService:
        minimum = rest.pop("minimum", "1.2")
        return self.service(port, tls=Tls(certificates=list(names or self.certificates), minimum=minimum), **rest)

    async def serve_tls(self, *names: str, **rest: Any) -> int:
        """The port of a service that serves certificates of these `names`, or all."""
        self.web, port = self.server("a"), free_port()
        await self.serve(
            Config(virtual_services=[self.secured(port, *names, **rest)], pools=[pool("p", self.web)]), "a"
        )
        return port

    async def refused(self, port: int, made: ssl.SSLContext, name: str = "shop.example") -> None:
        await self.assertFailure(ensureDeferred(ask_tls(port, name, made)), ssl.SSLError, ConnectionError)

    async def serial(self, port: int, name: str | None, *, verify: bool = True) -> int:
        seen = await ask_tls(port, name, context(self.issuer, verify=verify))
        self.assertEqual(seen.status, 200)
        return seen.serial

    def put_away(self, opened: Open) -> Open:
        self.addCleanup(opened.close)
        return opened

    # records

    def listen(self) -> None:
        """Take note of all that the data plane gives."""
        self.lines: list[bytes] = []
        self.plane.lines = self.lines.extend

    async def records(self, count: int) -> list[Record]:
        """So many records, each from a line that has every key once, in the order of the schema."""
        await eventually(f"{count} records are there", lambda: len(self.lines) >= count)
        self.assertEqual(len(self.lines), count, self.lines)
        for line in self.lines:
            self.assertEqual(fields(line), KEYS, line)
        return [msgspec.json.decode(line, type=Record) for line in self.lines]

    async def record(self) -> Record:
        [found] = await self.records(1)
        return found

    async def serve_web(self, **rest: Any) -> int:
        self.web, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port, **rest)], pools=[pool("p", self.web)]), "a")
        return port
