"""Two real ends joined in memory: real crypto, a clock that the test turns, and sockets with buffers of a real size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.service import SSHService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.errors import Unauthenticated
from avinet.sockets import Taker, arrived
from avinet.ssh.identity import Identity
from avinet.ssh.login import ClientTransport, Credentials
from avinet.ssh.policy import Policy
from avinet.ssh.server import Server, ServerTransport
from avinet.trust.keys import public_line

BUFFER_BYTES = 65536


def line_of(key: Ed25519PrivateKey) -> str:
    """The public half of `key` as OpenSSH writes it."""
    return public_line(key)


HOST_KEY = Ed25519PrivateKey.generate()
USER_KEY = Ed25519PrivateKey.generate()
USER = "aviseuser"


@implementer(ITransport, IConsumer)
class Wire:
    """One end of a connection in memory; what is written stays here until `Wires` moves it."""

    disconnecting = False

    def __init__(self, host: str, port: int) -> None:
        self.out = bytearray()
        self.protocol: IProtocol | None = None
        self.producer: IPushProducer | None = None
        self.connected = True
        self.aborted = False
        self.end_sent = False
        self._paused = False
        self._asleep = False
        self._address = IPv4Address("TCP", host, port)

    def write(self, data: bytes) -> None:
        if self.connected and not self.disconnecting:
            self.out += data
            self._asleep = False
            if self.producer is not None and len(self.out) > BUFFER_BYTES and not self._paused:
                self._paused = True
                self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def drained(self) -> None:
        """All that was written has been taken.

        As with Twisted's own transports, the end of a connection whose producer is to go on then waits for it.
        """
        if self._paused and self.producer is not None:
            self._paused, self._asleep = False, True
            self.producer.resumeProducing()

    @property
    def ending(self) -> bool:
        """Whether the connection can end now."""
        return self.disconnecting and self.connected and not self.out and not self._asleep

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.out.clear()
        self.disconnecting = self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        self._asleep = False

    def getPeer(self) -> IPv4Address:
        return self._address

    def getHost(self) -> IPv4Address:
        return self._address

    def deliver(self, data: bytes) -> None:
        """`data` has arrived."""
        assert self.protocol is not None
        self.protocol.dataReceived(data)

    def lose(self, reason: Exception) -> None:
        """The connection is gone for this end."""
        if self.connected:
            self.connected = False
            assert self.protocol is not None
            self.protocol.connectionLost(Failure(reason))


class LendingWire(Wire):
    """An end that lends what arrives and takes what is lent, as `avinet.sockets` do."""

    taker: Taker | None = None

    def lend_to(self, taker: Taker) -> None:
        self.taker = taker

    def buffer(self) -> memoryview | None:
        return None if self._paused else arrived()

    def lend(self, data: memoryview) -> None:
        self.write(bytes(data))

    def lend_all(self, pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            self.lend(piece)

    def read_least(self, size: int) -> None:
        """All that there is arrives anyway."""
        assert size > 0

    def lose(self, reason: Exception) -> None:
        super().lose(reason)
        self.taker = None

    def deliver(self, data: bytes) -> None:
        while data and self.connected and not self.aborted:
            assert self.taker is not None
            buffer = self.taker.buffer()
            assert buffer
            count = min(len(data), len(buffer))
            buffer[:count] = data[:count]
            data = data[count:]
            self.taker.lent(buffer[:count])


class Wires:
    """A connection in memory between two protocols, with a `wire` at each end; `chunk_bytes` at a time arrive."""

    def __init__(self, left: IProtocol, right: IProtocol, chunk_bytes: int = 65536, *, wire: type[Wire] = Wire) -> None:
        self.left, self.right = wire("192.0.2.1", 22), wire("192.0.2.2", 40000)
        self.left.protocol, self.right.protocol = left, right
        self.chunk_bytes = chunk_bytes
        self.moved_bytes = 0
        left.makeConnection(self.left)
        right.makeConnection(self.right)

    def step(self) -> bool:
        """Move one chunk each way, and carry an end of the connection; False when nothing is left to do."""
        one = self._move(self.left, self.right)
        other = self._move(self.right, self.left)
        return one or other

    def _move(self, source: Wire, sink: Wire) -> bool:
        moved = False
        if source.out:
            data = bytes(source.out[: self.chunk_bytes])
            del source.out[: len(data)]
            self.moved_bytes += len(data)
            moved = True
            if sink.connected and not sink.aborted:
                sink.deliver(data)
            if not source.out:
                source.drained()
        if source.ending:
            reason = ConnectionAborted() if source.aborted else ConnectionDone()
            source.lose(reason)
            sink.lose(reason)
            moved = True
        return moved

    def flush(self, steps: int = 100_000) -> None:
        """Move all that there is, and all that comes of it."""
        while self.step():
            steps -= 1
            assert steps > 0, "the two ends never fall silent"


@implementer(IStreamClientEndpoint)
class Memory:
    """An endpoint that connects in memory to whatever `serve` makes."""

    def __init__(self, serve: Callable[[], IProtocol], join: Callable[[IProtocol, IProtocol], Wires] = Wires) -> None:
        self._serve = serve
        self._join = join
        self.all: list[Wires] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        protocol = protocolFactory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 22))
        self.all.append(self._join(self._serve(), protocol))
        return succeed(protocol)

    def flush(self) -> None:
        for wires in self.all:
            wires.flush()


@dataclass
class Guests:
    """A real admission over a table of users and keys; what it did stands in `admitted` and `gone`.

    With `slow`, an admission waits until the test fires the Deferred in `asked`.
    """

    keys: set[tuple[str, str]] = field(default_factory=lambda: {(USER, line_of(USER_KEY))})
    slow: bool = False
    error: Exception | None = None
    asked: list[Deferred[None]] = field(default_factory=list)
    admitted: list[tuple[str, str]] = field(default_factory=list)
    gone: list[Identity] = field(default_factory=list)
    looked_up: int = 0

    def known(self, user: str, public_key: str) -> bool:
        self.looked_up += 1
        return (user, public_key) in self.keys

    async def admit(self, user: str, public_key: str, address: str) -> object:
        if self.slow:
            waiting: Deferred[None] = Deferred()
            self.asked.append(waiting)
            await waiting
        if self.error is not None:
            raise self.error
        if (user, public_key) not in self.keys:
            raise Unauthenticated("not in the table")
        self.admitted.append((user, public_key))
        return len(self.admitted)

    def left(self, identity: Identity) -> None:
        self.gone.append(identity)


class Recorder(SSHService):
    """A connection service that keeps what it is sent."""

    name = b"ssh-connection"
    transport: Any

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.received: list[tuple[int, bytes]] = []
        self.events: list[str] = []

    @override
    def serviceStarted(self) -> None:
        self.events.append("started")

    @override
    def serviceStopped(self) -> None:
        self.events.append("stopped")

    @override
    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        self.received.append((messageNum, packet))

    def pauseProducing(self) -> None:
        self.events.append("paused")

    def resumeProducing(self) -> None:
        self.events.append("resumed")


class Pair:
    """A server's and a client's end; `server.service` and `client.service` are what the two factories made."""

    def __init__(
        self,
        server_connection: Callable[[Identity], SSHService] = Recorder,
        client_connection: Callable[[Identity], SSHService] = Recorder,
        *,
        server_policy: Policy | None = None,
        client_policy: Policy | None = None,
        admission: Any = None,
        user: str = USER,
        user_key: Ed25519PrivateKey = USER_KEY,
        host_keys: tuple[str, ...] = (line_of(HOST_KEY),),
        chunk_bytes: int = 65536,
    ) -> None:
        self.clock = Clock()
        self.admission = admission if admission is not None else Guests()
        self.factory = Server(self.clock, HOST_KEY, self.admission, server_connection, policy=server_policy)
        server = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.2", 40000))
        assert isinstance(server, ServerTransport)
        self.server = server
        credentials = Credentials(user, user_key, host_keys)
        self.client = ClientTransport(self.clock, client_policy or Policy(), credentials, client_connection, "node n1")
        self.wires = Wires(self.server, self.client, chunk_bytes)

    def flush(self) -> None:
        """Move all bytes both ways until both ends are silent."""
        self.wires.flush()

    def close(self) -> None:
        """End the connection and whatever it had waiting."""
        self.client.close("the test is over")
        self.flush()
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()


def logged_in(*arguments: Any, **settings: Any) -> Pair:
    """A pair whose two ends know each other."""
    pair = Pair(*arguments, **settings)
    pair.flush()
    assert pair.client.identity is not None, "the client is not logged in"
    assert pair.server.identity is not None, "the server has not let the client in"
    return pair


def protocol_factory(make: Callable[[], Protocol] = Protocol) -> Factory:
    """A quiet factory of `make`."""
    factory = Factory.forProtocol(make)  # type: ignore[arg-type]
    factory.noisy = False
    return factory
