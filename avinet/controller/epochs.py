"""Which trust document each service engine holds, by its word; and those who are behind are brought the newest one.

`trust/seen/ID` is the epoch of the last one that it said to have. Whoever changes what the fleet believes counts on
this before anything is taken away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks, as_deferred, pause, within
from avinet.controller.reverse import SignatureRefused
from avinet.errors import AvinetError, PeerError, TimedOut
from avinet.store.interface import Store
from avinet.store.remembered import Remembered
from avinet.wire.trust import SignedTrust

SEEN = b"trust/seen/"
PUSHES = 64
"""Trust documents on their way to all service engines together."""
GATHER_S = 0.1
"""How long is waited for others who are behind: a fleet that comes back is looked through so often, not for each."""
RETRY_S = 15.0
"""After how long those who could not be reached are tried again."""


class Pusher(Protocol):
    """Sends a trust document through the tunnel of a service engine; see `avinet.controller.reverse.Reverse`."""

    async def trust(self, engine_id: str, signed: SignedTrust) -> int:
        """The epoch that it holds then. Raises `SignatureRefused` and others."""


class Epochs:
    """The epochs by service engine. `live` yields those with a tunnel that can be asked; `current` is the newest.

    `refused` is told of one that does not take the signature of this node.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        pusher: Pusher,
        live: Callable[[], Iterable[str]],
        current: Callable[[], tuple[int, SignedTrust]],
        tasks: Tasks,
        refused: Callable[[str], None],
        *,
        batch_s: float = 5.0,
    ) -> None:
        self._clock = clock
        self._pusher = pusher
        self._live = live
        self._current = current
        self._tasks = tasks
        self._refused = refused
        self._seen = Remembered(clock, store, SEEN, int, batch_s=batch_s)
        self._woken: Deferred[None] | None = None
        self._again = False
        self._said: dict[str, str] = {}
        self._failed: dict[str, tuple[int, float]] = {}
        """Which document each did not take, and when."""

    async def start(self) -> None:
        """Read what was remembered, and bring the newest from now on to those who are behind."""
        await self._seen.start()
        self._tasks.spawn(self._keep(), "bringing the trust document to service engines")

    async def stop(self) -> None:
        """Write what is unsaved."""
        await self._seen.stop()

    def get(self, id: str) -> int:
        """The epoch that a service engine has, as far as is known; 0 for one that never said."""
        return self._seen.get(id) or 0

    def said(self, id: str, epoch: int) -> None:
        """A service engine said which one it has: it is believed, also when that is an older one."""
        self._seen.set(id, epoch)

    def forget(self, id: str) -> None:
        """The service engine is gone, or begins anew."""
        self._seen.forget(id)
        self._said.pop(id, None)
        self._failed.pop(id, None)

    def behind(self, epoch: int, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that have not said that they have the document of `epoch` or a later one.

        One that has an epoch that was never published has another document, of which nothing is known.
        """
        current, _ = self._current()
        return [id for id in ids if not epoch <= self.get(id) <= current]

    def highest(self, ids: Iterable[str]) -> int:
        """The highest epoch that any of `ids` has said to have."""
        return max(map(self.get, ids), default=0)

    def opened(self, id: str) -> None:
        """A service engine can be asked from now on."""
        self._failed.pop(id, None)
        if self.get(id) < self._current()[0]:
            self.wake()

    def wake(self) -> None:
        """There is a newer trust document."""
        self._again = True
        if self._woken is not None and not self._woken.called:
            self._woken.callback(None)

    async def _keep(self) -> None:
        while True:
            await pause(self._clock, GATHER_S)
            self._again = False
            left = deque(self._due())
            workers = [as_deferred(self._push_some(left)) for _ in range(min(PUSHES, len(left)))]
            for worker in workers:
                self._tasks.spawn(worker, "bringing the trust document to some service engines")
            await DeferredList(workers, consumeErrors=True)
            if not self._again:
                await self._rest()

    def _due(self) -> list[str]:
        """Those who can be asked, are behind, and were not tried just now."""
        epoch, _ = self._current()
        before = self._clock.seconds() - RETRY_S
        lately = {id for id, (of, at) in self._failed.items() if of == epoch and at > before}
        return [id for id in self.behind(epoch, self._live()) if id not in lately]

    async def _push_some(self, left: deque[str]) -> None:
        while left:
            await self._push(left.popleft())

    async def _push(self, id: str) -> None:
        epoch, signed = self._current()
        try:
            held = await self._pusher.trust(id, signed)
            self.said(id, held)
            if self.behind(epoch, [id]):
                raise PeerError(f"it says that it has {held} now")
        except AvinetError as error:
            self._failed[id] = epoch, self._clock.seconds()
            if self._said.get(id) != str(error):
                self._said[id] = str(error)
                self.log.warn("{id} has not taken trust document {epoch}: {why}", id=id, epoch=epoch, why=str(error))
            if isinstance(error, SignatureRefused):
                self._refused(id)
        else:
            self._said.pop(id, None)
            self._failed.pop(id, None)

    async def _rest(self) -> None:
        """Until something changes; while some are behind no longer than until they are tried again."""
        self._woken = Deferred(lambda _: None)
        try:
            if self.behind(self._current()[0], self._live()):
                await within(self._clock, RETRY_S, self._woken, "a change")
            else:
                await self._woken
        except TimedOut:
            pass
        finally:
            self._woken = None
