"""A raw SSH peer in memory, which knows the crypto and says what it likes when it likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger
from typing_extensions import override
from zope.interface import provider

from avinet.ssh.auth import PUBLICKEY, signed_part
from avinet.ssh.login import ClientTransport, Credentials
from avinet.ssh.negotiation import Proposal
from avinet.ssh.phases import DISCONNECT, KEXINIT, SERVICE_REQUEST, USERAUTH_REQUEST, Phases, Stage, Verdict
from avinet.ssh.policy import INDICATIONS, Policy
from avinet.ssh.server import HostKey, Server, ServerTransport
from avinet.ssh.strings import ed25519_blob, string
from avinet.ssh.transport import Transport
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, Recorder, Wires, line_of


class _Lawless(Phases):
    """Takes everything once it has keys."""

    @override
    def received(self, number: int) -> Verdict:
        return super().received(number) if self.stage is Stage.OPENING else Verdict.TAKE


@provider(ILogObserver)
def _unheard(event: LogEvent) -> None:
    """What goes wrong in an attacker is its own affair."""


class Raw(Transport):
    """Exchanges keys as it should, then waits for its orders; what it hears stands in `heard`.

    Once it is `deaf`, it answers no KEXINIT.
    """

    log = Logger(observer=_unheard)

    def go_raw(self) -> None:
        """Keep no rules from now on."""
        self.phases = _Lawless(client=self.isClient, packets_before_login=1 << 30)
        self.heard: list[tuple[int, bytes]] = []
        self.deaf = False

    @override
    def secured(self) -> None:
        """Do nothing by itself."""

    @override
    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        self.heard.append((messageNum, payload))
        if (20 <= messageNum < 50 and not self.deaf) or messageNum == DISCONNECT:
            super().dispatchMessage(messageNum, payload)

    def sealed(self, number: int, payload: bytes = b"") -> bytes:
        """A message as it is sent next."""
        return self._outbound.seal(bytes((number,)) + payload)

    def say(self, number: int, payload: bytes = b"") -> None:
        """Send a message now, whatever the order says."""
        self.transport.write(self.sealed(number, payload))

    def say_all(self, *messages: tuple[int, bytes]) -> None:
        """Send messages so that they arrive together."""
        self.transport.write(b"".join(self.sealed(*message) for message in messages))

    def heard_numbers(self) -> list[int]:
        """The numbers of all messages heard."""
        return [number for number, _ in self.heard]


class Attacker(Raw, ClientTransport):
    """A client without rules."""

    def __init__(self, clock: Clock) -> None:
        credentials = Credentials(USER, USER_KEY, (line_of(HOST_KEY),))
        super().__init__(clock, Policy(login_s=1e6), credentials, Recorder, "the victim")
        self.go_raw()

    def begin(self) -> None:
        """Ask for the authentication service."""
        self.say(SERVICE_REQUEST, string(b"ssh-userauth"))

    def claim(
        self,
        user: str = USER,
        key: Ed25519PrivateKey = USER_KEY,
        signer: Ed25519PrivateKey | None = None,
        algorithm: bytes = b"ssh-ed25519",
    ) -> tuple[int, bytes]:
        """A signed authentication request of `user` that shows `key` and is signed by `signer`."""
        blob = ed25519_blob(key.public_key().public_bytes_raw())
        assert self.sessionID is not None
        signature = (signer or key).sign(signed_part(self.sessionID, user.encode(), blob))
        return self.request(
            user, PUBLICKEY, b"\1" + string(algorithm) + string(blob) + string(string(algorithm) + string(signature))
        )

    def query(self, user: str = USER, key: Ed25519PrivateKey = USER_KEY) -> tuple[int, bytes]:
        """A request that asks whether a key would do."""
        blob = ed25519_blob(key.public_key().public_bytes_raw())
        return self.request(user, PUBLICKEY, b"\0" + string(b"ssh-ed25519") + string(blob))

    def request(self, user: str, method: bytes, rest: bytes = b"") -> tuple[int, bytes]:
        """Any authentication request."""
        return USERAUTH_REQUEST, string(user.encode()) + string(b"ssh-connection") + string(method) + rest


class Impostor(Raw, ServerTransport):
    """A server without rules; with the node's host key, or with another."""

    def __init__(self, clock: Clock, host_key: Ed25519PrivateKey = HOST_KEY) -> None:
        def nothing(*_: Any) -> None:
            """Nobody counts it."""

        super().__init__(clock, Policy(login_s=1e6), HostKey(host_key), Guests(), Recorder, *[nothing] * 4)
        self.go_raw()


class OldAttacker(Attacker):
    """Knows no strict key exchange."""

    @override
    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if messageType == KEXINIT:
            theirs = Proposal.decode(payload)
            names = tuple(name for name in theirs.key_exchanges if name not in INDICATIONS)
            payload = replace(theirs, key_exchanges=names).encode(payload[:16])
            self.ourKexInitPayload = bytes((KEXINIT,)) + payload
        super().sendPacket(messageType, payload)

    @override
    def ssh_KEXINIT(self, packet: bytes) -> None:
        super().ssh_KEXINIT(packet)
        self.phases.strict = False


class Siege:
    """An attacker and a real server joined in memory."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        admission: Any = None,
        keyed: bool = True,
        attacker: type[Attacker] = Attacker,
        on_claim: Callable[[Any], None] = lambda refusal: None,
    ) -> None:
        self.clock = Clock()
        self.guests = admission if admission is not None else Guests()
        self.refusals: list[Any] = []
        self.services: list[Recorder] = []
        self.factory = Server(
            self.clock,
            HOST_KEY,
            self.guests,
            self._serve,
            policy=policy,
            on_refused=self.refusals.append,
            on_claim=on_claim,
        )
        server = self.factory.buildProtocol(IPv4Address("TCP", "198.51.100.7", 4711))
        assert isinstance(server, ServerTransport)
        self.server = server
        self.attacker = attacker(self.clock)
        self.wires = Wires(self.server, self.attacker)
        if keyed:
            self.flush()
            assert self.attacker.sessionID is not None

    def _serve(self, identity: Any) -> Recorder:
        service = Recorder(identity)
        self.services.append(service)
        return service

    def flush(self) -> None:
        """Move all bytes."""
        self.wires.flush()

    def log_in(self) -> None:
        """Log in as one should."""
        self.attacker.begin()
        self.attacker.say(*self.attacker.claim())
        self.flush()
        assert self.server.identity is not None

    @property
    def cut(self) -> bool:
        """Whether the server has closed the connection."""
        return not self.wires.left.connected

    def end(self) -> None:
        """Close the connection, if it stands, and see that nothing is left of it."""
        self.attacker.close("over")
        self.flush()
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()
        assert self.factory.logging_in == 0
