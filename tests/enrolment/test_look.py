"""What is wrong with a certificate is said in plain words (E9)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from avinet.enrolment.look import flaw
from avinet.trust import keys
from avinet.trust.authority import Credential, new_issuing, new_node, new_root, node_name
from avinet.trust.tls import ServerTLS
from avinet.wire.trust import Node
from tests.running import asynchronous

NOW = datetime.now(UTC)
ROOT, STRANGER = new_root("dexample", NOW), new_root("dexample", NOW)
ISSUING = new_issuing(ROOT, "dexample", NOW)
GOOD = new_node(ISSUING, "node-1", "dexample", NOW)
LINE = keys.public_line(keys.generate())
NODE = Node(
    id="node-1",
    name=node_name("node-1", "dexample"),
    https=["127.0.0.1:8443"],
    ssh=["127.0.0.1:22"],
    ssh_host_keys=[LINE],
    avictlruser_keys=[LINE],
)


class Banner(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"SSH-2.0-something\r\n")
        self.transport.loseConnection()


class LookTests(TestCase):
    async def listen(self, endpoint: Any, protocol: type[Protocol]) -> str:
        port = await endpoint.listen(Factory.forProtocol(protocol))
        self.addCleanup(port.stopListening)
        return f"127.0.0.1:{port.getHost().port}"

    async def seen(self, credential: Credential, root: Credential = ROOT, at: datetime = NOW) -> str | None:
        options: Any = ServerTLS(credential, [ISSUING.certificate])
        address = await self.listen(SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1"), Protocol)
        return await flaw(reactor, NODE, address, [root.certificate], at)

    @asynchronous
    async def test_the_reason_is_said(self) -> None:
        ends = GOOD.certificate.not_valid_after_utc
        for said, seen in (
            ("is not signed by the root CA", self.seen(GOOD, STRANGER)),
            (f"expired at {ends:%Y-%m-%d %H:%M}Z", self.seen(GOOD, at=NOW + timedelta(days=8))),
            (f"not for {NODE.name}", self.seen(new_node(ISSUING, "node-2", "dexample", NOW))),
            ("self-signed", self.seen(STRANGER)),
        ):
            self.assertIn(said, await seen or "nothing")
        self.assertIsNone(await self.seen(GOOD))

    @asynchronous
    async def test_where_nothing_can_be_seen_nothing_is_said(self) -> None:
        address = await self.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), Banner)
        self.assertIsNone(await flaw(reactor, NODE, address, [ROOT.certificate], NOW))
        self.assertIsNone(await flaw(reactor, NODE, "127.0.0.1:1", [ROOT.certificate], NOW))
