"""TCP services of the built-in proxy: a connection is spliced to one of a server, with back-pressure and half-close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.counting import Counter
from avinet.dataplane.pools import LivePool
from avinet.errors import Unavailable
from avinet.relay import Relay


class TCPFront(Factory):
    """Accepts connections of one TCP service; `pool` finds the pool that is current."""

    noisy = False

    def __init__(
        self, clock: IReactorTime, counter: Counter, pool: Callable[[], LivePool | None], tasks: Tasks
    ) -> None:
        self._clock = clock
        self.counter = counter
        self._pool = pool
        self._tasks = tasks
        self.open: set[Any] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> Relay:
        begun = self._clock.seconds()
        counter = self.counter
        counter.new_connections += 1
        counter.connections += 1

        def came(count: int) -> None:
            counter.bytes_in += count

        def ended() -> None:
            counter.connections -= 1
            counter.ended(self._clock.seconds() - begun, None)
            self.open.discard(front)

        front = Relay(came, ended)
        self.open.add(front)
        self._tasks.spawn(self._splice(front, counter), "connecting to a server")
        return front

    async def _splice(self, front: Relay, counter: Counter) -> None:
        pool = self._pool()

        def went(count: int) -> None:
            counter.bytes_out += count

        def backend() -> Relay:
            return Relay(went, lambda: done())

        def done() -> None:
            if member is not None:
                member.active -= 1

        member = None
        try:
            if pool is None:
                raise Unavailable("the service has no pool")
            factory = Factory.forProtocol(backend)
            factory.noisy = False
            member, back = await pool.connect(factory)
            member.active += 1
        except Unavailable:
            front.transport.abortConnection()
            return
        front.join(back)
