"""What a worker of HAProxy still says when it leaves, after a reload.

HAProxy (2.6 to 3.3 at least) ends the connections of its rings as soon as a worker is to stop, whatever else they hold,
while that worker goes on with what it has begun: the records of all of that would be lost. But the connection to us
goes through a proxy of its own, and as long as our half of it is open the worker stays. So we read its ring by its
command line until nobody else is connected to it, and only then let it go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from avinet.aio import CANCELLED, pause, within
from avinet.dataplane.runtime import WorkerState
from avinet.errors import AvinetError

FIRST_S, CAP_S = 0.1, 10.0
"""How long to wait between two looks: longer each time, for there is less and less to come."""
LAST_S = 2.0
"""How long the last look may take when the service engine ends."""
PIECE_BYTES = 128 * 1024
"""How much is taken in one turn of the reactor."""


class Worker(Protocol):
    """A worker: `last` is the last record that came from it and the lines behind that, `ended` its connections of which
    our half is open, among all that are `open`.
    """

    pid: int
    last: bytes
    open: int

    @property
    def ended(self) -> Sequence[object]: ...

    def take_block(self, block: bytes) -> None:
        """Take whole lines, each with its end."""

    def let_go(self, count: int) -> None:
        """End our half of the first of those that have ended."""


async def take_rest(
    clock: IReactorTime,
    worker: Worker,
    ring: Callable[[int], Awaitable[bytes]],
    state: Callable[[int], Awaitable[WorkerState]],
    lives: Callable[[int], bool],
) -> bool:
    """Take what `worker` still says, until it has nothing more to do; False when some may be lost.

    `ring` gives all that is in its ring, `state` what it does; both raise `AvinetError`. A worker that is not to stop
    has ended a connection by which it looked whether we are there. Cancelled, this looks once more, for `LAST_S` at
    most, before it lets go: what the worker says behind that is lost, if it is to stop.
    """
    wait_s, whole = FIRST_S, True

    async def over() -> bool:
        """Take what it has said until now. Whether that was all."""
        nonlocal whole
        while True:
            count = len(worker.ended)
            now = await state(worker.pid)
            if now.stopping:
                if worker.open > len(worker.ended):  # what is on its way by another one would be taken twice
                    return False
                said = await ring(worker.pid)
                at = behind(worker.last, said)
                whole = whole and at >= 0
                await _take(clock, worker, said, max(at, 0))
                return now.connections <= 1  # which is that of its ring
            worker.let_go(count)
            if not worker.ended:
                return True

    try:
        while True:
            try:
                if await over():
                    return whole
            except AvinetError:  # a master that begins anew has no answer just now
                if not lives(worker.pid):
                    return False
            await pause(clock, wait_s)
            wait_s = min(2 * wait_s, CAP_S)
    except CANCELLED:
        try:
            done = await within(clock, LAST_S, over(), "HAProxy")
        except AvinetError:
            return False
        return done and whole
    finally:
        worker.let_go(len(worker.ended))


async def _take(clock: IReactorTime, worker: Worker, ring: bytes, begin: int) -> None:
    """Take what is in `ring` from `begin` on."""
    while begin < len(ring):
        end = ring.rfind(b"\n", begin, begin + PIECE_BYTES) + 1 or ring.find(b"\n", begin) + 1
        if not end:
            break
        worker.take_block(ring[begin:end])
        begin = end
        await pause(clock, 0)


def behind(last: bytes, ring: bytes) -> int:
    """Where in `ring` begins what came after the lines `last`, which have no end; -1 when they are not there."""
    if not last:
        return 0
    if ring.startswith(last + b"\n"):
        return len(last) + 1
    at = ring.rfind(b"\n" + last + b"\n")
    return at + len(last) + 2 if at >= 0 else -1
