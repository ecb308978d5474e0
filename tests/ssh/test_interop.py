"""Real peers over real sockets: stock clients log in here, and our client logs in to a stock server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.errors import Unauthenticated, Unavailable
from avinet.ssh.gate import Limits
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint, WrongHostKey
from avinet.ssh.policy import Policy
from avinet.ssh.server import Server
from tests.peers import require
from tests.ssh.echo import Cat, RunCat
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, line_of, protocol_factory

SENT = Random(1).randbytes(3_000_000)
SMALL = Policy(rekey_bytes=200_000)
ALGORITHMS = (
    ("curve25519-sha256", "aes256-ctr", "hmac-sha2-512-etm@openssh.com"),
    ("curve25519-sha256@libssh.org", "aes128-ctr", "hmac-sha2-256-etm@openssh.com"),
)
PARAMIKO = """
import base64, functools, paramiko, sys, threading
client = paramiko.SSHClient()
client.get_host_keys().add(f"[127.0.0.1]:{sys.argv[1]}", "ssh-ed25519",
                           paramiko.Ed25519Key(data=base64.b64decode(sys.argv[3].split()[1])))
client.connect("127.0.0.1", int(sys.argv[1]), username="aviseuser", key_filename=sys.argv[2],
               allow_agent=False, look_for_keys=False,
               transport_factory=functools.partial(paramiko.Transport, strict_kex=sys.argv[4] == "True"))
stdin, stdout, stderr = client.exec_command("cat")
def feed():
    stdin.channel.sendall(data)
    stdin.channel.shutdown_write()
data = sys.stdin.buffer.read()
feeder = threading.Thread(target=feed)
feeder.start()
sys.stdout.buffer.write(stdout.read())
feeder.join()
client.close()
"""


def write_key(path: Path, key: Ed25519PrivateKey) -> str:
    """The path of a new file with `key` as OpenSSH keeps it."""
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return str(path)


class StockClientTests(TestCase):
    """Clients that others wrote log in to our server, and move data through changes of keys."""

    timeout = 60

    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.services: list[Cat] = []
        self.exchanged: list[int] = []

    def serve(self, policy: Policy | None = None) -> int:
        """The port of a server that runs until the end of the test."""
        self.guests = Guests()
        self.refusals: list[Any] = []
        self.factory = Server(
            reactor, HOST_KEY, self.guests, self._service, policy=policy, on_refused=self.refusals.append
        )
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(self._stop, port)
        number: int = port.getHost().port
        return number

    def _service(self, identity: Identity) -> Cat:
        self.services.append(Cat(identity, self.exchanged.append))
        return self.services[-1]

    async def _stop_all(self, port: Any) -> None:
        await port.stopListening()
        self.factory.close("the test is over")
        for service in self.services:
            await service.done

    def _stop(self, port: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop_all(port))

    def ssh(self, port: int, *options: str, user: str = USER, key: Ed25519PrivateKey = USER_KEY) -> list[str]:
        """The command of a stock client that knows our host key, without what it is to run."""
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {line_of(HOST_KEY)}\n")
        settings = (
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.folder / 'known_hosts'}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            f"IdentityFile={write_key(self.folder / 'key', key)}",
            "BatchMode=yes",
            *options,
        )
        command = ["-F", "/dev/null", "-p", str(port)]
        for setting in settings:
            command += ["-o", setting]
        return [*command, f"{user}@127.0.0.1"]

    @property
    def exchanges(self) -> int:
        """How often keys were exchanged on the last connection."""
        return self.exchanged[-1]

    async def run_cat(self, command: list[str], program: str) -> bytes:
        """What the command gives back for `SENT` on its standard input."""
        out, err, code = await getProcessOutputAndValue(program, command, env=os.environ, stdinBytes=SENT)
        self.assertEqual(code, 0, err.decode())
        await self.services[-1].done
        return out  # type: ignore[no-any-return]

    async def test_openssh_moves_data_through_new_keys_of_both_sides(self) -> None:
        program = require("ssh")
        for exchange, cipher, mac in ALGORITHMS:
            port = self.serve(SMALL)
            chosen = (f"KexAlgorithms={exchange}", f"Ciphers={cipher}", f"MACs={mac}", "RekeyLimit=150K")
            got = await self.run_cat([*self.ssh(port, *chosen), "cat"], program)
            self.assertEqual(sha256(got).digest(), sha256(SENT).digest())
            self.assertGreater(self.exchanges, 10)
            self.assertEqual(self.services[-1].identity.user, USER)
            self.assertEqual(self.services[-1].identity.public_key, line_of(USER_KEY))

    async def test_openssh_is_refused_with_another_key_in_one_line(self) -> None:
        program = require("ssh")
        port = self.serve()
        other = Ed25519PrivateKey.generate()
        _out, err, code = await getProcessOutputAndValue(program, [*self.ssh(port, key=other), "cat"], env=os.environ)
        self.assertEqual(code, 255)
        self.assertIn(b"Permission denied (publickey)", err)
        self.assertEqual([refusal.public_key for refusal in self.refusals], [line_of(other)])
        self.assertEqual(self.services, [])

    async def test_openssh_finds_a_changed_host_key(self) -> None:
        program = require("ssh")
        port = self.serve()
        command = self.ssh(port)
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {line_of(USER_KEY)}\n")
        _out, err, code = await getProcessOutputAndValue(program, [*command, "cat"], env=os.environ)
        self.assertEqual(code, 255)
        self.assertIn(b"HOST IDENTIFICATION HAS CHANGED", err)

    async def run_python(self, script: str, port: int, *arguments: str) -> bytes:
        """What a Python script gives back, run with the port, the key's file and the host key as arguments."""
        key = write_key(self.folder / "key", USER_KEY)
        return await self.run_cat(["-c", script, str(port), key, line_of(HOST_KEY), *arguments], sys.executable)

    async def test_asyncssh_moves_data_through_new_keys_of_both_sides(self) -> None:
        require("asyncssh")
        script = """
import asyncio, asyncssh, sys
async def main():
    hosts = asyncssh.import_known_hosts(f"[127.0.0.1]:{sys.argv[1]} {sys.argv[3]}\\n")
    async with asyncssh.connect("127.0.0.1", int(sys.argv[1]), username="aviseuser", client_keys=[sys.argv[2]],
                                known_hosts=hosts, rekey_bytes=150000, config=None) as connection:
        async with connection.create_process("cat", encoding=None) as process:
            process.stdin.write(sys.stdin.buffer.read())
            process.stdin.write_eof()
            sys.stdout.buffer.write(await process.stdout.read())
asyncio.run(main())
"""
        got = await self.run_python(script, self.serve(SMALL))
        self.assertEqual(sha256(got).digest(), sha256(SENT).digest())
        self.assertGreater(self.exchanges, 10)

    async def test_paramiko_moves_data_through_new_keys_of_our_side_strictly_and_not(self) -> None:
        require("paramiko")
        for strict in (True, False):
            got = await self.run_python(PARAMIKO, self.serve(SMALL), str(strict))
            self.assertEqual(sha256(got).digest(), sha256(SENT).digest())
            self.assertGreater(self.exchanges, 1)
            self.assertEqual(self.services[-1].was_strict, strict)


class _Sshd(ProcessProtocol):
    """A stock server; `ready` fires once it listens."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.said = b""

    @override
    def errReceived(self, data: bytes) -> None:
        self.said += data
        if b"Server listening" in self.said and not self.ready.called:
            self.ready.callback(None)

    @override
    def processEnded(self, reason: Failure) -> None:
        if not self.ready.called:
            self.ready.errback(RuntimeError(f"sshd ended: {self.said.decode()}"))
        self.ended.callback(None)


class StockServerTests(TestCase):
    """Our client logs in to a server that others wrote."""

    timeout = 60

    @override
    def setUp(self) -> None:
        self.program = require("sshd")
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        if os.getuid() == 0:
            # Where root's sshd locks its children in; its own start script makes it just so.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    async def serve(self, *settings: str) -> int:
        """The port of a stock server that runs until the end of the test."""
        authorized = self.folder / "authorized_keys"
        authorized.write_text(line_of(USER_KEY) + "\n")
        probe = reactor.listenTCP(0, protocol_factory(), interface="127.0.0.1")  # type: ignore[attr-defined]
        port: int = probe.getHost().port
        await probe.stopListening()
        config = self.folder / "sshd_config"
        lines = (
            f"ListenAddress 127.0.0.1:{port}",
            f"HostKey {write_key(self.folder / 'host_key', HOST_KEY)}",
            f"AuthorizedKeysFile {authorized}",
            "StrictModes no",
            "PidFile none",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            *settings,
        )
        config.write_text("\n".join(lines) + "\n")
        sshd = _Sshd()
        process = reactor.spawnProcess(  # type: ignore[attr-defined]
            sshd, self.program, [self.program, "-D", "-e", "-f", str(config)], env=os.environ
        )
        self.addCleanup(self._stop, process, sshd)
        await sshd.ready
        return port

    def _stop(self, process: Any, sshd: _Sshd) -> Deferred[None]:
        if process.pid is not None:
            process.signalProcess("TERM")
        return sshd.ended

    def login(
        self,
        port: int,
        connection: Callable[[Identity], Any] = RunCat,
        *,
        key: Ed25519PrivateKey = USER_KEY,
        pins: tuple[str, ...] = (line_of(HOST_KEY),),
        policy: Policy | None = None,
    ) -> Deferred[Any]:
        """The result of a login as whoever runs the test."""
        endpoint = LoginEndpoint(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", port),
            Credentials(os.environ.get("USER") or "root" if os.getuid() == 0 else os.getlogin(), key, pins),
            connection,
            where="sshd",
            policy=policy,
        )
        return endpoint.connect(protocol_factory(_Quiet))

    async def test_data_moves_through_new_keys_of_both_sides(self) -> None:
        for exchange, cipher, mac in ALGORITHMS:
            port = await self.serve(f"KexAlgorithms {exchange}", f"Ciphers {cipher}", f"MACs {mac}", "RekeyLimit 150K")

            def run(identity: Identity) -> RunCat:
                service = RunCat(identity)
                service.queue += SENT
                return service

            protocol = await self.login(port, run, policy=SMALL)
            transport = protocol.transport
            self.assertTrue(transport.otherVersionString.startswith(b"SSH-2.0-OpenSSH"))
            self.assertEqual(transport.algorithms.cipher_to_server, cipher.encode())
            self.assertEqual(transport.identity.public_key, line_of(HOST_KEY))
            got = await transport.service.done
            self.assertGreater(transport.exchanges, 10)
            self.assertEqual(sha256(got).digest(), sha256(SENT).digest())
            transport.loseConnection()
            await protocol.lost

    async def test_another_key_is_refused(self) -> None:
        port = await self.serve()
        await self.assertFailure(self.login(port, key=Ed25519PrivateKey.generate()), Unauthenticated)

    async def test_another_host_key_is_refused(self) -> None:
        port = await self.serve()
        await self.assertFailure(self.login(port, pins=(line_of(USER_KEY),)), WrongHostKey)


class OwnEndsTests(TestCase):
    """Our client and our server over a real socket, with its buffers and its ends."""

    timeout = 60

    @override
    def setUp(self) -> None:
        self.services: list[Cat] = []

    def serve(self, limits: Limits | None = None) -> IStreamClientEndpoint:
        """Where a server is that runs until the end of the test."""
        self.server = Server(reactor, HOST_KEY, Guests(), self._service, policy=SMALL, limits=limits)
        port = reactor.listenTCP(0, self.server, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

    def _service(self, identity: Identity) -> Cat:
        self.services.append(Cat(identity))
        return self.services[-1]

    def login(self, endpoint: IStreamClientEndpoint, sent: bytes) -> Deferred[Any]:
        def run(identity: Identity) -> RunCat:
            service = RunCat(identity)
            service.queue += sent
            return service

        credentials = Credentials(USER, USER_KEY, (line_of(HOST_KEY),))
        return LoginEndpoint(reactor, endpoint, credentials, run, where="n1").connect(protocol_factory(_Quiet))

    async def test_data_moves_under_back_pressure_through_new_keys(self) -> None:
        protocol = await self.login(self.serve(), SENT)
        got = await protocol.transport.service.done
        self.assertEqual(sha256(got).digest(), sha256(SENT).digest())
        self.assertGreater(protocol.transport.exchanges, 5)
        protocol.transport.loseConnection()
        await protocol.lost
        await self.services[0].done

    async def test_an_end_in_the_middle_of_data_reaches_both(self) -> None:
        for end in ("server", "client"):
            protocol = await self.login(self.serve(), SENT)
            service = self.services.pop()
            await service.started
            if end == "server":
                self.server.close("enough")
            else:
                protocol.transport.loseConnection()
            await protocol.lost
            await service.done

    async def test_a_refusal_at_the_door_is_read_before_the_connection_is_gone(self) -> None:
        """(S11)"""
        endpoint = self.serve(Limits(in_all=0, retry_after_s=9))
        for _ in range(20):
            error = await self.assertFailure(self.login(endpoint, b""), Unavailable)
            self.assertIn(error.retry_after_s, (9, 10), "one after the other")


class _Quiet(Protocol):
    """Says when its connection is gone."""

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    @override
    def connectionLost(self, reason: Failure = Failure(ProcessDone(0))) -> None:  # noqa: B008
        self.lost.callback(None)
