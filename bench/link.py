"""A link in user space: python -m bench.link PORT=PORT BYTES_PER_S DELAY_S

It ends TCP on both sides, and between them it has a rate and a delay in each direction and a deep buffer before it, as
a middle box with too much memory has. A sender's kernel learns nothing of the queue: what is in it was acknowledged.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override

reactor: Any = _reactor
DEEP_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 1448


class Direction:
    """One direction: bytes come out of it at `rate` a second, and `delay_s` after they could be sent."""

    def __init__(self, clock: IReactorTime, rate: float, delay_s: float, deliver: Callable[[bytes], None]) -> None:
        self._clock, self._rate, self._delay_s, self._deliver = clock, rate, delay_s, deliver
        self._free_at = 0.0
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: IDelayedCall | None = None
        self.queued = 0

    def send(self, data: bytes) -> None:
        """Bytes that are to go through, as segments."""
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            self._free_at = max(self._free_at, self._clock.seconds()) + len(piece) / self._rate
            self._queue.append((self._free_at + self._delay_s, piece))
            self.queued += len(piece)
        self._wait()

    def _wait(self) -> None:
        if self._queue and self._timer is None:
            self._timer = self._clock.callLater(max(0.0, self._queue[0][0] - self._clock.seconds()), self._due)

    def _due(self) -> None:
        self._timer = None
        ready = []
        while self._queue and self._queue[0][0] <= self._clock.seconds() + 1e-6:
            ready.append(self._queue.popleft()[1])
        if ready:
            data = b"".join(ready)
            self.queued -= len(data)
            self._deliver(data)
        self._wait()

    def stop(self) -> None:
        """Forget what is under way."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Side(Protocol):
    """One side of the link; what arrives here goes through `direction`."""

    transport: Any
    direction: Direction
    other: Side | None = None

    @override
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    @override
    def dataReceived(self, data: bytes) -> None:
        self.direction.send(data)
        if self.direction.queued > DEEP_BYTES:
            self.transport.pauseProducing()
            reactor.callLater(0.1, self._go_on)

    def _go_on(self) -> None:
        if self.direction.queued > DEEP_BYTES / 2:
            reactor.callLater(0.1, self._go_on)
        else:
            self.transport.resumeProducing()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.direction.stop()
        if self.other is not None:
            self.other.transport.loseConnection()


class Link(Factory):
    """Accepts at one end of the link, and dials from the other."""

    noisy = False

    def __init__(self, far_port: int, rate: float, delay_s: float) -> None:
        self._far_port, self._rate, self._delay_s = far_port, rate, delay_s

    @override
    def buildProtocol(self, addr: IAddress | None) -> Side:
        near, far = Side(), Side()

        def joined(_: object) -> None:
            near.other, far.other = far, near
            near.transport.resumeProducing()

        near.direction = Direction(reactor, self._rate, self._delay_s, lambda data: far.transport.write(data))
        far.direction = Direction(reactor, self._rate, self._delay_s, lambda data: near.transport.write(data))
        dialling = Factory()
        dialling.noisy = False
        dialling.buildProtocol = lambda address: far  # type: ignore[method-assign, assignment]
        connecting = HostnameEndpoint(reactor, "127.0.0.1", self._far_port).connect(dialling)
        connecting.addCallbacks(joined, lambda _: near.transport.abortConnection())
        reactor.callLater(0, lambda: near.other or near.transport.pauseProducing())
        return near


def main(pair: str, rate: str, delay_s: str) -> None:
    """Be a link until it is ended."""
    near, far = map(int, pair.split("="))
    reactor.listenTCP(near, Link(far, float(rate), float(delay_s)), interface="127.0.0.1")
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
