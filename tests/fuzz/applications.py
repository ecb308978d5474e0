"""What stands behind the services of a victim: each takes what arrives in another way, and all keep what happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.relay import Relay
from tests.fuzz.steps import Draw
from tests.fuzz.watch import check
from tests.ssh.joined import Talker

_ENDLESS_BYTES = 256 * 1024
_PIECE_BYTES = 8192


class Guest(Talker):
    """Keeps how much has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.received_bytes = 0

    @override
    def dataReceived(self, data: bytes) -> None:
        check(not self.lost, "data came after the connection was lost")
        self.received_bytes += len(data)


class Plain(Protocol):
    """Knows nothing of half-closing."""

    def __init__(self) -> None:
        self.lost: list[Exception] = []

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason.value)


class Echo(Guest):
    """Sends everything back, as fast as the peer takes it."""

    @override
    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, True)

    @override
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    @override
    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()


class Borrower(Guest):
    """Is lent what arrives."""

    @override
    def connectionMade(self) -> None:
        self.transport.lend_to(self)

    def buffer(self) -> memoryview | None:
        raise AssertionError("a channel has memory of its own")

    def lent(self, data: memoryview) -> None:
        self.dataReceived(bytes(data))

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            self.lent(piece)


class Fountain(Guest):
    """Sends much from the beginning, for as long as it is not paused."""

    def __init__(self) -> None:
        super().__init__()
        self._left = _ENDLESS_BYTES
        self._paused = False

    @override
    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self._run()

    def _run(self) -> None:
        while self._left and not self._paused:
            self._left -= _PIECE_BYTES
            self.transport.write(bytes(_PIECE_BYTES))
        if not self._left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._run()

    def stopProducing(self) -> None:
        self._left, self._paused = 0, True


class Slow(Guest):
    """Sends a piece each time that it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 40

    @override
    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self._left -= 1
        self.transport.write(bytes(3000))
        if self._left <= 0:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Nobody wants the rest."""


class Half(Relay):
    """Passes everything on to the one that was connected before it, or waits for the next."""

    _last: Half | None = None

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[Exception] = []

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        last, Half._last = Half._last, None
        if last is None or last.lost:
            Half._last = self
        else:
            self.join(last)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.lost.append(reason.value)

    def hear(self, count: int) -> None:
        """Have up to `count` bytes arrive, as from a socket: read to where they can be sent from."""
        buffer = self.buffer()
        if buffer is not None and not self.transport._paused:
            size = min(count, len(buffer))
            buffer[:size] = b"\x5a" * size
            self.lent(buffer[:size])


class Nobody:
    """Is not there."""

    def __new__(cls) -> Any:
        return None


class House(Factory):
    """Makes protocols of one kind, and has all that were made by any in `guests`."""

    noisy = False

    def __init__(self, kind: type[Any], guests: list[Any]) -> None:
        self.kind, self.guests = kind, guests

    @override
    def buildProtocol(self, addr: Any) -> Any:
        guest = self.kind()
        if guest is not None:
            self.guests.append(guest)
        return guest


KINDS: dict[str, type[Any]] = {
    "control:80": Guest,
    "reports:80": Echo,
    "logs:80": Fountain,
    "ssh:22": Borrower,
    "plain:80": Plain,
    "slow:80": Slow,
    "relay:80": Half,
    "nobody:80": Nobody,
}


def services(guests: list[Any]) -> dict[str, House]:
    """One service of each kind."""
    Half._last = None
    return {name: House(kind, guests) for name, kind in KINDS.items()}


def act(guest: Any, draw: Draw) -> None:
    """Do what an application may do with its connection."""
    transport = guest.transport
    if transport is None or guest.lost:
        return
    match draw.below(8):
        case 0 if isinstance(guest, Half):
            guest.hear(draw.number())
        case 0:
            transport.write(bytes(min(draw.number(), _ENDLESS_BYTES)))
        case 1:
            transport.loseConnection()
        case 2:
            transport.loseWriteConnection()
        case 3:
            transport.abortConnection()
        case 4:
            transport.pauseProducing()
        case 5:
            transport.resumeProducing()
        case 6:
            transport.write_error(bytes(draw.byte()))
        case _:
            transport.writeSequence([b"a" * draw.byte(), b"", b"b"])
