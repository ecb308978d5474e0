"""A node's door, and the SSH service of an engine, under a hostile client: before its keys, its login, and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from typing_extensions import override

from avinet.aio import pause
from avinet.errors import Unavailable
from avinet.ssh import messages as m
from avinet.ssh import phases
from avinet.ssh.channel import Channel, ChannelAddress
from avinet.ssh.connection import Connection
from avinet.ssh.identity import Identity
from avinet.ssh.server import Server
from avinet.ssh.session import SessionConnection
from avinet.ssh.sftp import FileServer, Folder
from avinet.ssh.tunnel import ServerTunnel
from avinet.wire.command import Ended
from tests.fuzz.applications import House
from tests.fuzz.assault import LIMITS, Assault
from tests.fuzz.folder import folder
from tests.fuzz.steps import Draw, joined, steps
from tests.fuzz.vocabulary import Message, confirmation, damaged, spelled
from tests.fuzz.watch import check, watched
from tests.fuzz.words import (
    APPLY,
    BULK,
    BYTES,
    CLAIMS,
    END,
    HOLD,
    HONEST,
    LOGIN,
    OPEN,
    OTHER,
    REQUESTS,
    SAY,
    SESSION,
    SEVERAL,
    SILENCE,
    TALK,
    TAMPER,
    open_to,
)
from tests.ssh.attacker import Attacker
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, line_of

LOG_BYTES_BEFORE_LOGIN = 200
SESSIONS = 8
SLOW = 16
_EARLY = (phases.USERAUTH_SUCCESS, phases.USERAUTH_FAILURE, phases.EXT_INFO, phases.SERVICE_ACCEPT)
_STRANGER = Ed25519PrivateKey.generate()


class ServerAssault(Assault):
    """A client without rules against a whole `Server`."""

    raw: Attacker

    @override
    def make(self) -> None:
        self.proved = self.early = False
        self.offers: list[str] = []
        self.admission = Guests(slow=bool(self.flags & SLOW))
        self.server = Server(self.clock, HOST_KEY, self.admission, self.serve, policy=self.policy)
        self.victim: Any = self.server.buildProtocol(IPv4Address("TCP", "198.51.100.177", 47111))
        self.raw = Attacker(self.clock)
        self.join(self.victim, self.raw)
        self.wire, self.tap = self.road.right, self.road.left
        if self.stage:
            self.flush()
        if self.stage > 1:
            self.raw.begin()
        if self.stage > 2:
            self.claim(Draw(b""))
            self.flush()
            self.let_in()

    def serve(self, identity: Identity) -> Connection:
        """The service of a client that was let in."""
        if self.flags & SESSIONS:
            return SessionConnection(self.clock, identity, self.command, self.files, limits=LIMITS, command_s=5)
        return self.tunnel(identity)

    def tunnel(self, identity: Identity) -> Connection:
        """The node's end of a tunnel."""
        return ServerTunnel(
            self.clock,
            identity,
            lambda tunnel: self.services,
            limits=LIMITS,
            on_offer=lambda tunnel, service: self.offers.append(service),
            on_up=lambda tunnel: self.offers.append("up"),
        )

    async def command(self, line: str, console: Channel) -> Ended:
        """A command that takes a while, and prints meanwhile."""
        console.write(b"out" * len(line))
        console.write_error(b"errors")
        await pause(self.clock, len(line) % 4)
        console.write(b"more")
        return Ended(exit_status=len(line) % 3, signal="TERM" if len(line) % 2 else "")

    def files(self) -> FileServer:
        """The SFTP subsystem."""
        return FileServer(Folder(folder()))

    @override
    def honest(self, draw: Draw) -> None:
        if self.raw.closing or self.raw.sessionID is None:
            return
        match draw.below(6):
            case 0:
                self.raw.begin()
            case 1:
                self.claim(draw)
            case 2:
                self.say(self.raw.query(key=draw.pick((USER_KEY, _STRANGER))))
            case 3:
                self.rekey()
            case 4:
                self.answer(draw)
            case _:
                self.say((m.CHANNEL_OPEN_CONFIRMATION, confirmation(draw)))

    @override
    def say(self, *messages: Message) -> None:
        super().say(*messages)
        if self.stage and not (self.proved or self.raw.closing or self.wire in self.road.held):
            self.early = self.early or any(80 <= number < 128 or number in _EARLY for number, _ in messages)

    def claim(self, draw: Draw) -> None:
        """Ask to be let in, as one should for zeros."""
        keys = (USER_KEY, _STRANGER)
        user, key, signer = draw.pick((USER, "avictlruser", "")), draw.pick(keys), draw.pick(keys)
        algorithm, damage = draw.pick((b"ssh-ed25519", b"ssh-rsa")), draw.byte()
        number, body = self.raw.claim(user, key, signer, algorithm)
        if damage:
            body = damaged(body, damage, draw.byte(), draw.some(16))
        self.proved = self.proved or (number, body) == self.raw.claim()
        self.say((number, body))

    def let_in(self) -> None:
        """Let the admission decide."""
        while self.admission.asked:
            self.admission.asked.pop().callback(None)

    @override
    def apply(self, draw: Draw) -> None:
        if self.admission.asked and self.connection is None:
            if draw.byte() % 4 == 3:
                self.admission.error = Unavailable("not now", retry_after_s=7)
            self.let_in()
        else:
            super().apply(draw)

    @override
    def opened(self, connection: Connection, draw: Draw) -> Any:
        house: House = self.house(draw)
        if isinstance(connection, ServerTunnel):
            return connection.open_service(draw.pick(("control:80", "logs:80", "ssh:22")), house)
        return connection.open(b"session", b"", house, ChannelAddress("session", "the victim"))

    @override
    def oracle(self) -> None:
        identity = self.victim.identity
        check(identity is None or self.proved, "a client is let in that proved nothing")
        if identity is not None:
            check(identity.user == USER and identity.public_key == line_of(USER_KEY), f"it is taken for {identity}")
        ended = self.victim.closing or not self.tap.connected
        check(ended or not self.early, "it takes what is for those that are logged in")
        check(len(self.offers) <= 1000, "it takes offers without end")
        check(self.victim.identity is not None or self.connection is None, "a service runs before the login")

    @override
    def over(self) -> None:
        self.admission.asked.clear()
        check(self.server.logging_in == 0, "a connection that is gone counts as on its way in")
        check(self.server.connections == 0, "a connection that is gone counts")
        check(len(self.admission.admitted) == len(self.admission.gone), "logins and logouts differ")


def run(data: bytes, assault: type[ServerAssault] = ServerAssault) -> None:
    """Run one program. Raises `Found`, and what else goes wrong."""
    program: Iterator[bytes] = steps(data)
    with watched() as log:
        attack = assault(Draw(next(program, b"")))
        attack.run(program)
    if not attack.admission.admitted:
        logged = sum(len(line.encode()) for line in log.lines)
        check(logged <= LOG_BYTES_BEFORE_LOGIN, f"{logged} bytes of log for a peer that did not log in: {log.lines}")


OPEN_SEEDS = [
    *(joined([bytes((3, flags)), *SEVERAL]) for flags in range(4)),
    *(joined([bytes((3, flags)), *REQUESTS, *TALK]) for flags in range(4)),
]
"""Those of clients that are logged in."""
SEEDS = [
    joined([b"\0", bytes((HOLD,)), *LOGIN]),
    joined([b"\0\1", bytes((TAMPER, 3, 9)), bytes((TAMPER, 4, 0, 0, 7)), bytes((HOLD,))]),
    *(joined([bytes((1, flags)), *LOGIN, *TALK]) for flags in (0, 1, 2, SLOW)),
    *(joined([bytes((3, flags)), *TALK, *TALK]) for flags in range(8)),
    *OPEN_SEEDS,
    *(joined([bytes((3, flags)), *BULK]) for flags in range(8)),
    *(joined([bytes((3, flags)), bytes((SAY,)) + spelled(m.GLOBAL_REQUEST), *SILENCE]) for flags in (0, SESSIONS)),
    *(joined([b"\2\0", bytes((HONEST, 1, *claim))]) for claim in CLAIMS),
    joined([b"\2\0", *(bytes((HONEST, 1, 1)),) * 13]),
    *(joined([bytes((2, SLOW)), bytes((HONEST, 1)), bytes((APPLY, 3)), bytes((END, how))]) for how in range(4)),
    *(joined([b"\2\0", bytes((SAY,)) + spelled(phases.USERAUTH_REQUEST, *rest)]) for rest in ((0, 0, 1), (0, 1), (3,))),
    *(joined([bytes((stage, 0)), *(bytes((OTHER, 200)),) * 18]) for stage in (1, 3)),
    joined([b"\1\0", *(bytes((OTHER, 2)),) * 65]),
    joined([b"\1\0", bytes((SAY, 0, 19, 1))]),
    *(
        joined([b"\3\0", bytes((SAY,)) + spelled(phases.KEXINIT, *lists)])
        for lists in ((1,), (2, 0, 5), (0, 0, 0, 9), ())
    ),
    joined([bytes((3, SESSIONS)), OPEN[:1] + spelled(m.CHANNEL_OPEN, 2, 0, 0, 0, 9)]),
    *(joined([bytes((3, flags | SESSIONS)), *SESSION, *REQUESTS]) for flags in range(4)),
    *(joined([bytes((stage, 0)), bytes((SAY, 0, kind))]) for stage in range(4) for kind in range(15, 31)),
    joined([b"\3\0", bytes((BYTES,)) + b"junk"]),
    joined([b"\3\0", bytes((OTHER, 200))]),
    *(joined([b"\3\0", open_to(0), bytes((END, how))]) for how in range(4)),
]
