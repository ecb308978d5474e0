"""The login of a service engine and its end of the tunnel, under a hostile node: before its keys, its login, and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.errors import AvinetError
from avinet.ssh import messages as m
from avinet.ssh import phases
from avinet.ssh.connection import Connection
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.strings import string
from avinet.ssh.tunnel import ClientTunnel
from tests.fuzz.assault import LIMITS, Assault
from tests.fuzz.steps import Draw, joined, steps
from tests.fuzz.vocabulary import confirmation, spelled
from tests.fuzz.watch import check, watched
from tests.fuzz.words import (
    ACT,
    APPLY,
    EDGE_16384,
    HOLD,
    HONEST,
    OTHER,
    SAY,
    SILENCE,
    STALL,
    TALK,
    TAMPER,
    WAIT,
    channel,
)
from tests.ssh.attacker import Impostor
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Memory, line_of, protocol_factory

STRANGER = 8
_OTHER_KEY = Ed25519PrivateKey.generate()
_OFFERS = ("control:80", "logs:80", "ssh:22", "reports:80")


class ClientAssault(Assault):
    """A server without rules, with or without the node's host key, against a whole login."""

    raw: Impostor

    @override
    def make(self) -> None:
        self.stranger = bool(self.flags & STRANGER)
        self.admitted = False
        self.raw = Impostor(self.clock, _OTHER_KEY if self.stranger else HOST_KEY)
        memory = Memory(lambda: self.raw, self.join)
        pins = (line_of(HOST_KEY),)
        credentials = Credentials(USER, USER_KEY, pins)
        endpoint = LoginEndpoint(self.clock, memory, credentials, self.tunnel, where="node n1", policy=self.policy)
        self.result: Any = None
        self.connecting: Deferred[Any] = endpoint.connect(protocol_factory())
        self.connecting.addBoth(self._connected)
        self.victim: Any = self.road.right.protocol
        self.wire, self.tap = self.road.left, self.road.right
        if self.stage:
            self.flush()
        if self.stage > 1:
            self.accept()
        if self.stage > 2:
            self.admit()

    def _connected(self, result: Any) -> None:
        self.result = result

    def tunnel(self, identity: Any) -> ClientTunnel:
        """The engine's end of a tunnel."""
        return ClientTunnel(self.clock, identity, lambda tunnel: self.services, limits=LIMITS)

    def accept(self) -> None:
        """Let the client authenticate."""
        self.say((phases.SERVICE_ACCEPT, string(b"ssh-userauth")))
        self.flush()

    def admit(self) -> None:
        """Let the client in."""
        self.admitted = True
        self.say((phases.USERAUTH_SUCCESS, b""))
        self.flush()

    @override
    def honest(self, draw: Draw) -> None:
        match draw.below(6):
            case 0:
                self.accept()
            case 1:
                self.admit()
            case 2:
                self.say((m.REQUEST_SUCCESS, b""))
            case 3:
                self.rekey()
            case 4:
                self.answer(draw)
            case _:
                self.say((m.CHANNEL_OPEN_CONFIRMATION, confirmation(draw)))

    @override
    def apply(self, draw: Draw) -> None:
        connection = self.connection
        if connection is None:
            if draw.byte() % 4 == 3:
                self.connecting.cancel()
        elif draw.byte() % 2 and isinstance(connection, ClientTunnel):
            self.waits(connection.offer(draw.pick(_OFFERS)))
        else:
            super().apply(draw)

    @override
    def opened(self, connection: Connection, draw: Draw) -> Any:
        assert isinstance(connection, ClientTunnel)
        return connection.open_service(draw.pick(_OFFERS), self.house(draw))

    @override
    def oracle(self) -> None:
        if self.victim.identity is not None:
            check(not self.stranger, "a client takes a node that it does not know")
            check(self.victim.identity.public_key == line_of(HOST_KEY), "the node is taken for another")
        else:
            check(self.connection is None, "a service runs before the login")

    @override
    def over(self) -> None:
        check(self.connecting.called, "the login never ends")
        if isinstance(self.result, Failure):
            usual = self.result.check(AvinetError) or type(self.result.value).__name__ == "CancelledError"
            check(usual, f"the login failed with {self.result.getTraceback()}")


def run(data: bytes) -> None:
    """Run one program. Raises `Found`, and what else goes wrong."""
    program: Iterator[bytes] = steps(data)
    with watched():
        ClientAssault(Draw(next(program, b""))).run(program)


LOGIN = (bytes((HONEST, 0)), bytes((HONEST, 1)))
CONFIRM = bytes((HONEST, 5))
OFFERED = bytes((SAY,)) + spelled(m.CHANNEL_OPEN, 1)
"""A forwarded-tcpip to control:80 with number 0."""
REVERSE = (
    bytes((APPLY, 1, 0)),
    bytes((HONEST, 2)),
    OFFERED,
    *TALK[1:6],
    bytes((APPLY, 1, 2)),
    bytes((HONEST, 4)),
    bytes((APPLY, 0, 1, 0, 0)),
    CONFIRM,
    bytes((APPLY, 0, 1, 1, 2)),
    bytes((HONEST, 5, 1, 1)),
    bytes((APPLY, 0, 2)),
    bytes((HONEST, 2)),
    bytes((HONEST, 3)),
    bytes((APPLY, 0, 0)),
    bytes((APPLY, 0, 3)),
)
SEEDS = [
    joined([b"\0", bytes((HOLD,)), *LOGIN]),
    joined([b"\0\1", bytes((TAMPER, 3, 9)), bytes((TAMPER, 4, 0, 0, 7)), bytes((HOLD,))]),
    *(joined([bytes((1, flags)), *LOGIN, *REVERSE]) for flags in (0, 1, 2, STRANGER)),
    *(joined([bytes((3, flags)), *REVERSE, *TALK[10:], bytes((STALL,)), *REVERSE]) for flags in range(8)),
    *(
        joined([bytes((3, flags)), *REVERSE[:3], *(channel(m.CHANNEL_DATA, 0, EDGE_16384),) * 3, OFFERED, OFFERED])
        for flags in range(8)
    ),
    joined([b"\3\0", *REVERSE[:6], bytes((APPLY, 0, 6)), *SILENCE]),
    *(
        joined([bytes((stage, 0)), bytes((SAY, 0, 15, reason, text))])
        for stage in (1, 2)
        for reason in (12, 2)
        for text in (0, 1)
    ),
    joined([b"\1\0", bytes((SAY, 0, 20, 1))]),
    *(joined([bytes((stage, 0)), bytes((SAY, 0, kind))]) for stage in range(4) for kind in range(15, 31)),
    joined([b"\2\0", bytes((SAY,)) + spelled(phases.USERAUTH_FAILURE)]),
    joined([b"\1\0", bytes((WAIT, 8))]),
    joined([b"\3\0", bytes((OTHER, 200)), bytes((ACT, 0, 1))]),
]
