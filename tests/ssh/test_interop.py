"""Logins over real sockets, with stock peers where one does not trust the other, and with both ends ours."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
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
from tests.interop.case import NodeCase
from tests.interop.openssh import client_options, server_command, whoami
from tests.peers import require
from tests.running import free_port
from tests.ssh.echo import Cat, RunCat
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, line_of, protocol_factory

SENT = Random(1).randbytes(3_000_000)
SMALL = Policy(rekey_bytes=200_000)


class StockClientTests(TestCase):
    """A client that others wrote, and whom it and our server do not trust."""

    timeout = 60

    @override
    def setUp(self) -> None:
        self.program = require("ssh")
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.services: list[Cat] = []
        self.refusals: list[Any] = []
        factory = Server(reactor, HOST_KEY, Guests(), self._service, on_refused=self.refusals.append)
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(listening.stopListening)
        self.port: int = listening.getHost().port

    def _service(self, identity: Identity) -> Cat:
        self.services.append(Cat(identity))
        return self.services[-1]

    async def run_cat(self, options: list[str]) -> bytes:
        """What the client says when it is not let in, or does not go in."""
        command = [*options, "-p", str(self.port), f"{USER}@127.0.0.1", "cat"]
        _out, err, code = await getProcessOutputAndValue(self.program, command, env=os.environ)
        self.assertEqual(code, 255)
        self.assertEqual(self.services, [])
        return err  # type: ignore[no-any-return]

    async def test_openssh_is_refused_with_another_key_in_one_line(self) -> None:
        other = Ed25519PrivateKey.generate()
        err = await self.run_cat(client_options(self.folder, self.port, key=other))
        self.assertIn(b"Permission denied (publickey)", err)
        self.assertEqual([refusal.public_key for refusal in self.refusals], [line_of(other)])

    async def test_openssh_finds_a_changed_host_key(self) -> None:
        options = client_options(self.folder, self.port)
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {line_of(USER_KEY)}\n")
        self.assertIn(b"HOST IDENTIFICATION HAS CHANGED", await self.run_cat(options))


class StockServerTests(NodeCase):
    """Our client and a server that others wrote, which do not trust each other."""

    def login(
        self, port: int, *, key: Ed25519PrivateKey = USER_KEY, pins: tuple[str, ...] = (line_of(HOST_KEY),)
    ) -> Deferred[Any]:
        """The result of a login as whoever runs the test."""
        endpoint = LoginEndpoint(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", port),
            Credentials(whoami(), key, pins),
            RunCat,
            where="sshd",
        )
        return endpoint.connect(protocol_factory(_Quiet))

    async def serve(self) -> int:
        """The port of a stock server that runs until the end of the test."""
        port = free_port()
        await self.run_peer(server_command(self.folder, port)).says(b"Server listening")
        return port

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
        self.assertGreater(protocol.transport.exchanges, 2)
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
        endpoint = self.serve(Limits(in_all=0, retry_after_s=9, per_second=1e9))
        for _ in range(20):
            error = await self.assertFailure(self.login(endpoint, b""), Unavailable)
            self.assertIn(error.retry_after_s, (9, 10), "one after the other")


class _Quiet(Protocol):
    """Says when its connection is gone."""

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)
