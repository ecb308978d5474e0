"""Stock OpenSSH holds the tunnel, runs commands and fetches files: real processes over real sockets."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import as_deferred
from avinet.errors import Invalid, NotFound
from avinet.relay import Relay
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.server import Server
from avinet.ssh.session import SessionConnection
from avinet.ssh.sftp import FileServer, Folder
from avinet.ssh.tunnel import ClientTunnel, ServerTunnel, Tunnel
from tests.peers import require
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, line_of, protocol_factory
from tests.ssh.test_interop import write_key

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
        self._waiting: tuple[int, Deferred[list[Mirror]]] | None = None

    @override
    def buildProtocol(self, addr: Any) -> Mirror:
        self.made.append(Mirror())
        if self._waiting is not None and len(self.made) == self._waiting[0]:
            self._waiting[1].callback(self.made)
        return self.made[-1]

    def when_made(self, count: int) -> Deferred[list[Mirror]]:
        """All that were made, once there are `count`."""
        waiting: Deferred[list[Mirror]] = Deferred()
        if len(self.made) >= count:
            waiting.callback(self.made)
        else:
            self._waiting = count, waiting
        return waiting


class Process(ProcessProtocol):
    """A process that runs until it is told to end."""

    def __init__(self) -> None:
        self.said = b""
        self.ended: Deferred[None] = Deferred()

    @override
    def errReceived(self, data: bytes) -> None:
        self.said += data

    @override
    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


def expected(data: bytes) -> bytes:
    """What a `Mirror` answers to `data`."""
    return sha256(sha256(data).digest() + data).digest()


class InteropCase(TestCase):
    timeout = 60

    @override
    def setUp(self) -> None:
        # Paths of UNIX sockets are short.
        self.folder = Path(os.path.relpath(self.mktemp()))
        self.folder.mkdir()
        self.tunnels: list[Any] = []
        self.tunnel_up: Deferred[ServerTunnel] = Deferred()
        self.services: dict[str, IProtocolFactory] = {"control:80": Mirrors()}
        self.offered: Deferred[str] = Deferred()
        self.dead_after_s = 15.0

    def listen(self, connection: Any) -> int:
        """The port of a server until the end of the test."""
        server = Server(reactor, HOST_KEY, Guests(), connection)
        port = reactor.listenTCP(0, server, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(self._stop, port, server)
        number: int = port.getHost().port
        return number

    def _stop(self, port: Any, server: Server) -> Deferred[Any]:
        lost = [tunnel.when_lost() for tunnel in self.tunnels]
        server.close("the test is over")
        return DeferredList([port.stopListening(), *lost])

    def node(self) -> int:
        """The port of a node."""
        return self.listen(self._tunnel)

    def _tunnel(self, identity: Identity) -> ServerTunnel:
        def services(tunnel: Tunnel) -> Mapping[str, IProtocolFactory]:
            return self.services

        def offered(tunnel: Tunnel, service: str) -> None:
            if not self.offered.called:
                self.offered.callback(service)

        def up(tunnel: Any) -> None:
            self.tunnels.append(tunnel)
            self.tunnel_up.callback(tunnel)

        return ServerTunnel(reactor, identity, services, on_offer=offered, dead_after_s=self.dead_after_s, on_up=up)

    def ssh(self, port: int, *arguments: str) -> list[str]:
        """The arguments of a stock client, but for the options in `arguments`."""
        known = self.folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {line_of(HOST_KEY)}\n")
        command = ["-F", "/dev/null"]
        for setting in (
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={known}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            f"IdentityFile={write_key(self.folder / 'key', USER_KEY)}",
            "BatchMode=yes",
        ):
            command += ["-o", setting]
        return [*command, *arguments]

    def hold(self, port: int, *arguments: str) -> Process:
        """A stock client that holds a tunnel until the end of the test."""
        program = require("ssh")
        process = Process()
        command = [program, *self.ssh(port, "-N", "-p", str(port), *arguments), f"{USER}@127.0.0.1"]
        self.process = reactor.spawnProcess(process, program, command, env=os.environ)  # type: ignore[attr-defined]
        self.addCleanup(self._end, self.process, process)
        return process

    def _end(self, transport: Any, process: Process) -> Deferred[None]:
        if transport.pid is not None:
            transport.signalProcess("KILL")
        return process.ended


class StockTunnelTests(InteropCase):
    """`ssh -N -L -R` in place of a service engine."""

    async def free_port(self) -> int:
        probe = reactor.listenTCP(0, protocol_factory(), interface="127.0.0.1")  # type: ignore[attr-defined]
        port: int = probe.getHost().port
        await probe.stopListening()
        return port

    def target(self) -> tuple[int, Mirrors]:
        """A service of the engine on a port of its own."""
        mirrors = Mirrors()
        port = reactor.listenTCP(0, mirrors, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return port.getHost().port, mirrors

    async def test_holds_the_tunnel_in_both_directions_and_every_byte_arrives(self) -> None:
        """(S26)"""
        local = await self.free_port()
        target, mirrors = self.target()
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
        target, _ = self.target()
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
        self.process.signalProcess("KILL")
        await process.ended
        self.assertEqual(process.said.count(b"remote port forwarding failed"), 4, process.said)

    async def test_reaches_no_real_host(self) -> None:
        """(S31)"""
        local = self.folder / "l"
        target, mirrors = self.target()
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
        self.hold(self.node(), "-o", "ServerAliveInterval=1")
        tunnel = await self.tunnel_up
        self.assertLess(await tunnel.probe(10.0), 10.0)
        self.process.signalProcess("STOP")
        self.assertEqual(await tunnel.when_lost(), "it gives no sign of life")

    async def test_that_is_killed_in_the_middle_is_an_error(self) -> None:
        target, _ = self.target()
        self.hold(self.node(), "-R", f"api:80:127.0.0.1:{target}")
        tunnel = await self.tunnel_up
        await self.offered
        asker = Asker(DATA)
        await tunnel.endpoint("control:80").connect(Factory.forProtocol(lambda: asker))
        os.kill(self.process.pid, signal.SIGKILL)
        await tunnel.when_lost()
        await asker.lost
        self.assertEqual(tunnel.channels, 0)


ASYNCSSH = """
import asyncio, asyncssh, hashlib, random, sys
async def main():
    hosts = asyncssh.import_known_hosts(f"[127.0.0.1]:{sys.argv[1]} {sys.argv[3]}\\n")
    async with asyncssh.connect("127.0.0.1", int(sys.argv[1]), username="aviseuser", client_keys=[sys.argv[2]],
                                known_hosts=hosts, config=None) as connection:
        await connection.forward_remote_port("api", 80, "127.0.0.1", int(sys.argv[4]))
        async def ask(data):
            reader, writer = await connection.open_connection("api", 80, encoding=None)
            writer.write(data)
            writer.write_eof()
            return hashlib.sha256(await reader.read()).hexdigest()
        data = sys.stdin.buffer.read()
        print(*await asyncio.gather(*[ask(each) for each in (data, data[:1000], b"")]), flush=True)
        await connection.wait_closed()
asyncio.run(main())
"""


class AsyncsshTests(InteropCase):
    """Another implementation holds the tunnel."""

    async def test_every_byte_arrives_in_both_directions(self) -> None:
        """(S26)"""
        require("asyncssh")
        mirrors = Mirrors()
        target = reactor.listenTCP(0, mirrors, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(target.stopListening)
        key = write_key(self.folder / "key", USER_KEY)
        arguments = (str(self.node()), key, line_of(HOST_KEY), str(target.getHost().port))
        output = getProcessOutputAndValue(sys.executable, ["-c", ASYNCSSH, *arguments], os.environ, stdinBytes=DATA)
        tunnel = await self.tunnel_up
        served: Any = self.services["control:80"]
        await DeferredList([mirror.ended for mirror in await served.when_made(3)])
        asker = Asker(DATA)
        await tunnel.endpoint("control:80").connect(Factory.forProtocol(lambda: asker))
        self.assertEqual(sha256(await asker.answer).digest(), expected(DATA))
        tunnel.close("that was all")
        out, err, _ = await output
        self.assertEqual(out.split(), [expected(each).hex().encode() for each in (DATA, DATA[:1000], b"")], err)


class StockSessionTests(InteropCase):
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

        async def run(line: str) -> tuple[int, bytes, bytes]:
            if line == "fail":
                raise Invalid("there is no such command")
            return (7 if line == "seven" else 0), line.encode() * 1000, b"said " + line.encode()

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

        port = reactor.listenTCP(0, Pipe(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def output(self, program: str, *arguments: str) -> tuple[bytes, bytes, int]:
        result: tuple[bytes, bytes, int] = await getProcessOutputAndValue(require(program), arguments, env=os.environ)
        return result

    async def test_ssh_runs_commands_and_tells_their_status(self) -> None:
        port = await self.engine()
        for line, status in (("status", 0), ("seven", 7)):
            out, err, code = await self.output("ssh", *self.ssh(port, "-p", str(port)), f"{USER}@127.0.0.1", line)
            self.assertEqual((out, err, code), (line.encode() * 1000, b"said " + line.encode(), status))
        out, err, code = await self.output("ssh", *self.ssh(port, "-p", str(port)), f"{USER}@127.0.0.1", "fail")
        self.assertEqual((out, err, code), (b"", b"there is no such command\n", 255))

    async def test_ssh_gets_no_shell(self) -> None:
        port = await self.engine()
        out, err, code = await self.output("ssh", *self.ssh(port, "-T", "-p", str(port)), f"{USER}@127.0.0.1")
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
        arguments = self.ssh(port, "-P", str(port), "-b", str(batch))
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
        arguments = self.ssh(port, "-P", str(port))
        _out, err, code = await self.output("scp", *arguments, f"{USER}@127.0.0.1:access.log", str(got))
        self.assertEqual(code, 0, err)
        self.assertEqual(sha256(got.read_bytes()).digest(), sha256(DATA).digest())
