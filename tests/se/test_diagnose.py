"""`diagnose` says in plain words which step between a service engine and a node fails."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.enrolment.door import enrolment_routes
from avinet.errors import TimedOut
from avinet.flow.allowance import Allowance
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.se.diagnose import Diagnosis
from avinet.ssh.binary import VERSION
from avinet.trust.domain import found
from avinet.trust.tls import ServerTLS
from avinet.wire.trust import Node
from tests.enrolment.making import document, domain
from tests.running import asynchronous, free_port


class Greeting(Protocol):
    """Says one line, as an SSH server does."""

    line = VERSION + b"\r\n"

    @override
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.line)


class Known:
    """What a service engine knows of its node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def nodes(self) -> list[Node]:
        return [self._node]

    def roots(self) -> Any:
        return [domain().root]

    def time(self, clock: float) -> datetime:
        return datetime.fromtimestamp(clock, UTC)


class DiagnoseTests(TestCase):
    @override
    def setUp(self) -> None:
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)
        self.ahead_s = 0.0
        self.probed: Any = None

    async def listen(self, endpoint: Any, factory: Any) -> int:
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def https(self, server: Any = None) -> int:
        of = server or domain()
        routes = enrolment_routes(
            None,  # type: ignore[arg-type]  # nobody enrols here
            trust=lambda: None,  # type: ignore[arg-type,return-value]
            nonce_key=of.nonce_key,
            signer=lambda: (of.server.key, [of.server.certificate]),
            now=lambda: time.time() - self.ahead_s,
            allowance=Allowance(time.monotonic, burst=100, per_s=100),
        )
        tls = ServerTLS(of.server, [of.issuing.certificate])
        door = Door(reactor, Table(routes), tasks=self.tasks)
        return await self.listen(SSL4ServerEndpoint(reactor, 0, tls, interface="127.0.0.1"), door)

    async def ssh(self, line: bytes = Greeting.line) -> int:
        factory = Factory.forProtocol(type("Said", (Greeting,), {"line": line}))
        return await self.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), factory)

    async def diagnosed(self, https: str, ssh: str, *, tunnel: bool = True) -> tuple[int, list[str]]:
        [like] = document().nodes
        node = Node(
            id=like.id,
            name=like.name,
            https=[https],
            ssh=[ssh],
            ssh_host_keys=like.ssh_host_keys,
            avictlruser_keys=like.avictlruser_keys,
        )

        async def probe() -> float:
            if self.probed is not None:
                raise self.probed
            return 0.0123

        tunnels = {node.id: probe} if tunnel else {}
        known: Any = Known(node)
        outcome = await Diagnosis(reactor, known, wall=time.time, now=time.time, tunnels=lambda: tunnels).run()
        self.assertEqual(outcome.error, "")
        return outcome.exit_status, outcome.output.splitlines()

    def bad(self, lines: list[str]) -> list[str]:
        return [line for line in lines if line.startswith("BAD")]

    @asynchronous
    async def test_where_all_is_well_each_step_says_so(self) -> None:
        https, ssh = await self.https(), await self.ssh()
        status, lines = await self.diagnosed(f"localhost:{https}", f"127.0.0.1:{ssh}")
        self.assertEqual((status, self.bad(lines)), (0, []), lines)
        for said in (
            "DNS gives",
            "reached in",
            "packets of",
            "its certificate is signed by our root CA, and for node-1.",
            "the clock here is",
            "it says SSH-2.0-avinet_",
            "the tunnel answers in 12.3 ms",
        ):
            self.assertTrue(any(said in line for line in lines), (said, lines))

    @asynchronous
    async def test_a_name_that_nobody_knows(self) -> None:
        status, lines = await self.diagnosed("no-such-host.invalid:8443", "no-such-host.invalid:22")
        self.assertEqual((status, len(self.bad(lines))), (1, 2), lines)
        self.assertIn("DNS: ", lines[0])

    @asynchronous
    async def test_a_node_that_is_not_there(self) -> None:
        closed = free_port()
        status, lines = await self.diagnosed(f"127.0.0.1:{closed}", f"127.0.0.1:{closed}", tunnel=False)
        self.assertEqual(status, 1)
        self.assertEqual(len(self.bad(lines)), 3, lines)
        self.assertIn("cannot be reached", lines[0])
        self.assertIn("no tunnel stands", lines[2])

    @asynchronous
    async def test_another_node_answers(self) -> None:
        other = found(Path(self.mktemp()) / "other", "node-1", datetime.now(UTC))
        _, lines = await self.diagnosed(f"127.0.0.1:{await self.https(other)}", f"127.0.0.1:{await self.ssh()}")
        [line] = self.bad(lines)
        self.assertRegex(line, "certificate")

    @asynchronous
    async def test_a_clock_that_is_wrong(self) -> None:
        self.ahead_s = 100.0
        _, lines = await self.diagnosed(f"127.0.0.1:{await self.https()}", f"127.0.0.1:{await self.ssh()}")
        [line] = self.bad(lines)
        self.assertIn("100.0 s ahead of that of node-1", line)

    @asynchronous
    async def test_something_else_answers_at_the_door_for_tunnels(self) -> None:
        for said in (b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"\x1b[2J\n", b"x" * 5000):
            _, lines = await self.diagnosed(f"127.0.0.1:{await self.https()}", f"127.0.0.1:{await self.ssh(said)}")
            [line] = self.bad(lines)
            self.assertIn("it says ", line)
            self.assertTrue(line.isprintable(), line)

    @asynchronous
    async def test_a_tunnel_that_gives_no_sign(self) -> None:
        self.probed = TimedOut("the tunnel gave no answer within 5 s")
        _, lines = await self.diagnosed(f"127.0.0.1:{await self.https()}", f"127.0.0.1:{await self.ssh()}")
        self.assertIn("gives no sign", self.bad(lines)[0])
