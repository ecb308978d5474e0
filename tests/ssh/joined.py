"""Two connections joined below without a transport: packets are moved one at a time, in the order that a test wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.errors import AvinetError, PeerError
from avinet.flow.turns import Priority
from avinet.ssh.channel import ChannelAddress
from avinet.ssh.connection import Connection
from avinet.ssh.messages import CHANNEL_DATA
from avinet.ssh.opening import Accepted, ChannelLimits, OpenRefused

KIND = b"test"
ADDRESS = ChannelAddress("test:1", "a test")


class Below:
    """What a connection has of its transport; packets stay in `out` until they are moved."""

    why = ""
    address = "a test"
    heard_at = 0.0
    kindred = True

    def __init__(self) -> None:
        self.out: deque[tuple[int, bytes]] = deque()
        self.sent: list[tuple[int, bytes]] = []
        self.failed: AvinetError | None = None
        self.unknown = 0
        self.closed = ""

    def sendPacket(self, number: int, payload: bytes) -> None:
        assert isinstance(payload, bytes)
        self.out.append((number, payload))
        self.sent.append((number, payload))

    def send(self, number: int, pieces: Sequence[bytes | memoryview], size: int) -> None:
        message = b"".join(pieces)
        assert message[0] == number
        assert len(message) == size
        self.sendPacket(number, message[1:])

    def place(self, before: int, size: int) -> memoryview:
        return memoryview(bytearray(size))

    def cork(self) -> None: ...

    def uncork(self) -> None: ...

    def sendUnimplemented(self) -> None:
        self.unknown += 1

    def fail(self, error: AvinetError) -> None:
        self.failed = self.failed or error

    def close(self, why: str) -> None:
        self.closed = why


@implementer(IHalfCloseableProtocol)
class Talker(Protocol):
    """A half-closeable protocol that keeps what happens to it."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.events: list[str] = []
        self.lost: list[Exception] = []

    @override
    def connectionMade(self) -> None:
        self.events.append("made")

    @override
    def dataReceived(self, data: bytes) -> None:
        assert type(data) is bytes
        self.received += data

    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason.value)


class Open(Connection):
    """Takes every channel of one kind, each with a new `Talker`."""

    def __init__(self, clock: Clock, limits: ChannelLimits | None = None) -> None:
        super().__init__(clock, limits)
        self.talkers: list[Talker] = []
        self.make: type[Protocol] = Talker
        self.priority = Priority.COMMANDS

    @override
    async def accept(self, kind: bytes, body: bytes) -> Accepted:
        if kind != KIND:
            raise OpenRefused("not of this kind")
        talker = self.make()
        self.talkers.append(talker)  # type: ignore[arg-type]
        return Accepted(talker, ADDRESS, priority=self.priority)


def deliver(connection: Connection, number: int, payload: bytes) -> None:
    """Hand a message to `connection` as its transport does; data is good only during the call."""
    if number != CHANNEL_DATA:
        connection.packetReceived(number, payload)
        return
    memory = bytearray(bytes((number,)) + payload)
    try:
        connection.data_received(memoryview(memory))
        connection.data_settled()
    finally:
        memory[:] = bytes(len(memory))


class Joined:
    """Two connections; `left` opens channels to `right` unless told otherwise."""

    def __init__(
        self,
        left: Connection | None = None,
        right: Connection | None = None,
        *,
        clock: Clock | None = None,
        limits: ChannelLimits | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.left: Any = left or Open(self.clock, limits)
        self.right: Any = right or Open(self.clock, limits)
        for end in (self.left, self.right):
            end.transport = Below()
            end.serviceStarted()

    def move(self, end: Connection) -> bool:
        """Move one packet that `end` has sent to the other one."""
        below: Any = end.transport
        if not below.out:
            return False
        number, payload = below.out.popleft()
        other = self.right if end is self.left else self.left
        try:
            deliver(other, number, payload)
        except PeerError as error:
            other.transport.fail(error)
        return True

    def settle(self) -> None:
        """Move all packets, and let everything happen that is to happen at once."""
        for _ in range(100_000):
            self.clock.advance(0)
            moved = [self.move(self.left), self.move(self.right)]
            if not any(moved) and not [
                call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()
            ]:
                return
        raise AssertionError("the two ends never fall silent")

    def lose(self) -> None:
        """The connection below is gone for both ends."""
        self.left.transport.out.clear()
        self.right.transport.out.clear()
        self.left.serviceStopped()
        self.right.serviceStopped()

    def talk(self, near: Protocol | None = None, priority: Priority = Priority.COMMANDS) -> tuple[Any, Any]:
        """A new channel from left to right: the protocols of its two ends."""
        near = near or Talker()
        self.right.priority = priority
        opened = connect(self.left, near, priority)
        self.settle()
        assert opened.called
        opened.addErrback(lambda failure: failure.raiseException())
        return near, self.right.talkers[-1]

    def check_clean(self) -> None:
        """Nothing is left of all the channels there were."""
        assert self.left.channels == 0, self.left._table
        assert self.right.channels == 0, self.right._table
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()


def factory_of(*protocols: Protocol) -> Factory:
    """A factory that hands out `protocols`, one after the other."""
    left = deque(protocols)
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda address: left.popleft()  # type: ignore[method-assign]
    return factory


def connect(connection: Connection, near: Protocol, priority: Priority = Priority.COMMANDS) -> Any:
    """`near` on a new channel of `connection`."""
    from avinet.aio import as_deferred

    return as_deferred(connection.open(KIND, b"", factory_of(near), ADDRESS, priority))
