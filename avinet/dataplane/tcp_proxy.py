"""TCP services of the built-in proxy: a connection is spliced to one of a server, with back-pressure and half-close.

Where TLS ends here, a direction that ends takes the other one with it, once all that was sent has arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import Tasks
from avinet.dataplane.counting import Counter, ServerCounter
from avinet.dataplane.pools import LivePool
from avinet.dataplane.records import TCP
from avinet.dataplane.timeline import Client, Take, Timeline
from avinet.dataplane.tls import HANDSHAKE_S, LINGER_S
from avinet.errors import Unavailable
from avinet.relay import Relay


class PlainRelay(Relay):
    """The client's side of a connection without TLS; `ready` is called when it may be joined."""

    def __init__(self, passed: Callable[[int], None], ended: Callable[[], None], ready: Callable[[], None]) -> None:
        super().__init__(passed, ended)
        self._ready = ready

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        self._ready()


@implementer(IHandshakeListener)
class TLSRelay(Relay):
    """The client's side of a connection under TLS; `ready` is called when the handshake is done, and it may be joined.

    What comes in one read with the end of the handshake waits until then.
    """

    def __init__(
        self, clock: IReactorTime, passed: Callable[[int], None], ended: Callable[[], None], ready: Callable[[], None]
    ) -> None:
        super().__init__(passed, ended)
        self._clock = clock
        self._ready = ready
        self._early: list[bytes] = []
        self._timer: IDelayedCall | None = clock.callLater(HANDSHAKE_S, self._late)

    @override
    def connectionMade(self) -> None:
        """The handshake is to go on."""

    def _late(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def _in_time(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`."""
        self._in_time()
        self.transport.pauseProducing()
        self._ready()

    @override
    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().dataReceived(data)

    @override
    def join(self, other: Relay) -> None:
        super().join(other)
        early, self._early = self._early, []
        for each in early:
            self.dataReceived(each)

    @override
    def end_writing(self) -> None:
        self.end()

    @override
    def end(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(LINGER_S, self._late)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._in_time()
        super().connectionLost(reason)


class _Connection:
    """A connection while it lasts, for its record; `broken` when the server has broken it off."""

    def __init__(self, clock: IReactorTime, counter: Counter, client: Client) -> None:
        self.counter = counter
        self.timeline = Timeline(client, clock.seconds(), status=TCP)
        self.is_ready, self.served, self.broken = False, True, False
        self._clock = clock
        self._counted: ServerCounter | None = None

    def came(self, count: int) -> None:
        """From the client."""
        self.counter.bytes_in += count
        self.timeline.bytes_in += count
        if self._counted is not None:
            self._counted.bytes_in += count

    def went(self, count: int) -> None:
        """To it."""
        self.counter.bytes_out += count
        self.timeline.bytes_out += count
        if self._counted is not None:
            self._counted.bytes_out += count

    def begin(self, client: Client) -> None:
        """A server may be dialled."""
        self.is_ready = True
        self.timeline.client = client
        self.timeline.asked = self._clock.seconds()

    def connected(self) -> None:
        """A server has taken it."""
        self.timeline.connected = self._clock.seconds()
        self._counted = self.counter.dialled(self.timeline.pool, self.timeline.dialled)
        self._counted.connections += 1

    def left(self) -> None:
        """The connection to the server has ended."""
        if self._counted is not None:
            self._counted.connections -= 1

    def end(self, front: Relay, take: Take) -> None:
        """Count it, and give its record."""
        now = self._clock.seconds()
        record = self.timeline.record(now, self.counter.name, self._termination(front))
        counted = self._counted or self.counter.dialled(self.timeline.pool, self.timeline.dialled)
        counted.ended(now - self.timeline.began, None, served=self.served)
        take(record)

    def _termination(self, front: Relay) -> str:
        if not self.served:
            return "SC"
        if self.timeline.connected is None:
            return "CC"
        if self.broken:
            return "SD"
        return "--" if front.finished else "CD"


class TCPFront(Factory):
    """Accepts connections of one TCP service: `pool` finds the pool that is current, `take` gets the records, and `tls`
    says what is beneath.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        counter: Counter,
        pool: Callable[[], LivePool | None],
        tasks: Tasks,
        take: Take,
        *,
        tls: bool,
    ) -> None:
        self._clock = clock
        self.counter = counter
        self._pool = pool
        self._tasks = tasks
        self._take = take
        self._tls = tls
        self.open: set[Any] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> Relay:
        seen = _Connection(self._clock, self.counter, Client.of(addr))
        seen.counter.new_connections += 1
        seen.counter.connections += 1

        def ready() -> None:
            seen.begin(Client.of(addr, front.transport if self._tls else None))
            self._tasks.spawn(self._splice(front, seen), "connecting to a server")

        def ended() -> None:
            seen.counter.connections -= 1
            if seen.is_ready:
                seen.end(front, self._take)
            self.open.discard(front)

        front = TLSRelay(self._clock, seen.came, ended, ready) if self._tls else PlainRelay(seen.came, ended, ready)
        self.open.add(front)
        return front

    async def _splice(self, front: Relay, seen: _Connection) -> None:
        pool = self._pool()

        def backend() -> Relay:
            return Relay(seen.went, lambda: done())

        def done() -> None:
            if member is not None and back is not None:
                member.active -= 1
                seen.left()
                seen.broken = not back.finished

        member, back = None, None
        try:
            if pool is None:
                raise Unavailable("the service has no pool")
            factory = Factory.forProtocol(backend)
            factory.noisy = False
            seen.timeline.pool = pool.config.name
            member, back = await pool.connect(factory, seen.timeline.dialled)
            seen.connected()
            member.active += 1
        except Unavailable:
            seen.served = False
            front.transport.abortConnection()
            return
        front.join(back)
