"""Stock OpenSSH holds the tunnel, runs commands and fetches files: real processes over real sockets."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import as_deferred
from avinet.errors import Invalid, NotFound
from avinet.relay import Relay
from avinet.ssh.channel import Channel
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.server import Server
from avinet.ssh.session import SessionConnection
from avinet.ssh.sftp import FileServer, Folder
from avinet.ssh.tunnel import ClientTunnel
from avinet.wire.command import Ended
from tests.interop.case import NodeCase, reactor
from tests.interop.openssh import client_options
from tests.interop.process import Process
from tests.peers import require
from tests.running import free_port
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, line_of, protocol_factory

DATA = Random(2).randbytes(5_000_000)


@implementer(IHalfCloseableProtocol)
class Mirror(Protocol):
    """Sends the hash of all it has read, and then the same again, once there is nothing more to read."""

    transport: Any

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ended: Deferred[Exception] = Deferred()

    @override
    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def readConnectionLost(self) -> None:
        data = b"".join(self.received)
        self.transport.write(sha256(data).digest() + data)
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None: ...

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(reason.value)


@implementer(IHalfCloseableProtocol)
class Asker(Protocol):
    """Sends `data` and the end of it; `answer` fires with all that comes back, in order."""

    transport: Any

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received: list[bytes] = []
        self.answer: Deferred[bytes] = Deferred()
        self.lost: Deferred[Exception] = Deferred()

    @override
    def connectionMade(self) -> None:
        self.transport.write(self.data)
        self.transport.loseWriteConnection()

    @override
    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def readConnectionLost(self) -> None:
        self.answer.callback(b"".join(self.received))
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None: ...

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.callback(b"".join(self.received))
        self.lost.callback(reason.value)


class Mirrors(Factory):
    noisy = False

    def __init__(self) -> None:
        self.made: list[Mirror] = []

    @override
    def buildProtocol(self, addr: Any) -> Mirror:
        self.made.append(Mirror())
        return self.made[-1]


def expected(data: bytes) -> bytes:
    """What a `Mirror` answers to `data`."""
    return sha256(sha256(data).digest() + data).digest()


class StockCase(NodeCase):
    """A node whose one service mirrors what it is sent."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.services["control:80"] = Mirrors()

    def hold(self, port: int, *arguments: str) -> Process:
        """A stock client that holds a tunnel until the end of the test."""
        command = [require("ssh"), *client_options(self.folder, port), "-N", "-p", str(port), *arguments]
        return self.run_peer([*command, f"{USER}@127.0.0.1"])


class StockTunnelTests(StockCase):
    """`ssh -N -L -R` in place of a service engine."""

    async def test_holds_the_tunnel_in_both_directions_and_every_byte_arrives(self) -> None:
        """(S26)"""
        local = free_port()
        mirrors = Mirrors()
        target = self.target(mirrors)
        self.hold(
            self.node(), "-o", "ExitOnForwardFailure=yes", "-L", f"{local}:api:80", "-R", f"api:80:127.0.0.1:{target}"
        )
        tunnel = await self.tunnel_up
        self.assertEqual(await self.offered, "control:80")
        for endpoint in (TCP4ClientEndpoint(reactor, "127.0.0.1", local), tunnel.endpoint("control:80")):
            askers = [Asker(DATA), Asker(b""), Asker(DATA[:1000])]
            for asker in askers:
                endpoint.connect(Factory.forProtocol(lambda asker=asker: asker))
            for asker in askers:
                answer = await asker.answer
                self.assertEqual(sha256(answer).digest(), expected(asker.data))
                await asker.lost
        served: Any = self.services["control:80"]
        self.assertEqual([len(served.made), len(mirrors.made)], [3, 3])
        self.assertEqual((tunnel.channels, tunnel.strays), (0, 0))

    async def test_is_refused_what_it_may_not_offer_and_lives(self) -> None:
        """(S31)"""
        target = self.target(Mirrors())
        forwards = ("reports:80", "127.0.0.1:8080", "control:80", "api:80", "*:9999")
        arguments = [each for name in forwards for each in ("-R", f"{name}:127.0.0.1:{target}")]
        process = self.hold(self.node(), *arguments)
        tunnel = await self.tunnel_up
        self.assertEqual(await self.offered, "control:80")
        asker = Asker(b"hello")
        await tunnel.endpoint("control:80").connect(Factory.forProtocol(lambda: asker))
        self.assertEqual(sha256(await asker.answer).digest(), expected(b"hello"))
        await tunnel.probe(10.0)
        self.assertEqual(tunnel.offered, {"control:80"})
        await process.end("KILL")
        self.assertEqual(process.said.count(b"remote port forwarding failed"), 4, process.said)

    async def test_reaches_no_real_host(self) -> None:
        """(S31)"""
        local = self.folder / "l"
        mirrors = Mirrors()
        target = self.target(mirrors)
        self.hold(self.node(), "-L", f"{local}:127.0.0.1:{target}", "-R", f"ssh:22:127.0.0.1:{target}")
        tunnel = await self.tunnel_up
        await self.offered
        asker = Asker(b"hello")
        await UNIXClientEndpoint(reactor, str(local)).connect(Factory.forProtocol(lambda: asker))
        self.assertEqual(await asker.answer, b"")
        self.assertEqual((mirrors.made, tunnel.channels, tunnel.refused), ([], 0, 1))
        await self.assertFailure(as_deferred(tunnel.open_service("logs:80", Factory())), NotFound)

    async def test_answers_probes_and_is_given_up_when_it_is_stopped(self) -> None:
        """(S34)"""
        self.dead_after_s = 2.0
        process = self.hold(self.node(), "-o", "ServerAliveInterval=1")
        tunnel = await self.tunnel_up
        self.assertLess(await tunnel.probe(10.0), 10.0)
        process.signal("STOP")
        self.assertEqual(await tunnel.when_lost(), "it gives no sign of life")

    async def test_that_is_killed_in_the_middle_is_an_error(self) -> None:
        target = self.target(Mirrors())
        process = self.hold(self.node(), "-R", f"api:80:127.0.0.1:{target}")
        tunnel = await self.tunnel_up
        await self.offered
        asker = Asker(DATA)
        await tunnel.endpoint("control:80").connect(Factory.forProtocol(lambda: asker))
        process.signal("KILL")
        await tunnel.when_lost()
        await asker.lost
        self.assertEqual(tunnel.channels, 0)


class StockSessionTests(StockCase):
    """`ssh COMMAND`, `sftp` and `scp` towards an engine, through its tunnel to a node."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        (self.logs / "access.log").write_bytes(DATA)
        (self.logs / "link").symlink_to(os.devnull)

    async def engine(self) -> int:
        """The port of a node on which the SSH service of an engine is to be had, for as long as the test runs."""

        async def run(line: str, console: Channel) -> Ended:
            if line == "fail":
                raise Invalid("there is no such command")
            console.write(line.encode() * 1000)
            console.write_error(b"said " + line.encode())
            return Ended(exit_status=7 if line == "seven" else 0)

        def session(identity: Identity) -> SessionConnection:
            return SessionConnection(reactor, identity, run, lambda: FileServer(Folder(self.logs)))

        ssh = Server(reactor, HOST_KEY, Guests(), session)

        def tunnel(identity: Identity) -> ClientTunnel:
            return ClientTunnel(reactor, identity, lambda tunnel: {"ssh:22": ssh})

        endpoint = LoginEndpoint(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.node()),
            Credentials(USER, USER_KEY, (line_of(HOST_KEY),)),
            tunnel,
            where="the node",
        )
        protocol: Any = await endpoint.connect(protocol_factory())
        near = protocol.transport.service
        self.assertIsInstance(near, ClientTunnel)
        self.tunnels.append(near)
        await near.offer("ssh:22")
        far = await self.tunnel_up

        class Pipe(Factory):
            noisy = False

            @override
            def buildProtocol(self, addr: Any) -> Relay:
                outside, inside = Relay(), Relay()
                connected = far.endpoint("ssh:22").connect(protocol_factory(lambda: inside))
                connected.addCallback(lambda _: outside.join(inside))
                return outside

        return self.target(Pipe())

    async def output(self, program: str, *arguments: str) -> tuple[bytes, bytes, int]:
        result: tuple[bytes, bytes, int] = await getProcessOutputAndValue(require(program), arguments, env=os.environ)
        return result

    async def test_ssh_runs_commands_and_tells_their_status(self) -> None:
        port = await self.engine()
        for line, status in (("status", 0), ("seven", 7)):
            out, err, code = await self.output(
                "ssh", *client_options(self.folder, port), "-p", str(port), f"{USER}@127.0.0.1", line
            )
            self.assertEqual((out, err, code), (line.encode() * 1000, b"said " + line.encode(), status))
        out, err, code = await self.output(
            "ssh", *client_options(self.folder, port), "-p", str(port), f"{USER}@127.0.0.1", "fail"
        )
        self.assertEqual((out, err, code), (b"", b"there is no such command\n", 255))

    async def test_ssh_gets_no_shell(self) -> None:
        port = await self.engine()
        out, err, code = await self.output(
            "ssh", *client_options(self.folder, port), "-T", "-p", str(port), f"{USER}@127.0.0.1"
        )
        self.assertEqual((out, code), (b"", 255))
        self.assertIn(b"shell request failed", err)

    async def test_sftp_lists_and_fetches_and_changes_nothing(self) -> None:
        port = await self.engine()
        batch = self.folder / "batch"
        got = self.folder / "got.log"
        tries = (
            "put batch",
            "rm access.log",
            "rename access.log x",
            "mkdir d",
            "get ../batch",
            "get link",
            "ln access.log x",
        )
        batch.write_text("\n".join(["ls -l", f"get access.log {got}", *(f"-{each}" for each in tries), "pwd"]) + "\n")
        arguments = [*client_options(self.folder, port), "-P", str(port), "-b", str(batch)]
        out, err, code = await self.output("sftp", *arguments, f"{USER}@127.0.0.1")
        self.assertEqual(code, 0, err)
        self.assertEqual(sha256(got.read_bytes()).digest(), sha256(DATA).digest())
        self.assertIn(b"access.log", out)
        self.assertIn(b"Remote working directory: /", out)
        self.assertEqual(sorted(os.listdir(self.logs)), ["access.log", "link"])
        self.assertTrue(stat.S_ISREG((self.logs / "access.log").stat().st_mode))

    async def test_scp_fetches(self) -> None:
        port = await self.engine()
        got = self.folder / "got.log"
        arguments = [*client_options(self.folder, port), "-P", str(port)]
        _out, err, code = await self.output("scp", *arguments, f"{USER}@127.0.0.1:access.log", str(got))
        self.assertEqual(code, 0, err)
        self.assertEqual(sha256(got.read_bytes()).digest(), sha256(DATA).digest())
