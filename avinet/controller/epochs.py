"""Which trust document each service engine holds, by its word; and those who are behind are brought the newest one.

`trust/seen/ID` is the epoch of the last one that it said to have. Whoever changes what the fleet believes counts on
this before anything is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks, as_deferred, pause, within
from avinet.errors import AvinetError, TimedOut
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

    async def trust(self, engine_id: str, signed: SignedTrust) -> None: ...


class Epochs:
    """The epochs by service engine. `live` yields those with a tunnel that can be asked; `current` is the newest."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        pusher: Pusher,
        live: Callable[[], Iterable[str]],
        current: Callable[[], tuple[int, SignedTrust]],
        tasks: Tasks,
        *,
        batch_s: float = 5.0,
    ) -> None:
        self._clock = clock
        self._pusher = pusher
        self._live = live
        self._current = current
        self._tasks = tasks
        self._seen = Remembered(clock, store, SEEN, int, batch_s=batch_s)
        self._slots = DeferredSemaphore(PUSHES)
        self._woken: Deferred[None] | None = None
        self._again = False
        self._said: dict[str, str] = {}

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

    def behind(self, epoch: int, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that have not said that they have `epoch` or a later one."""
        return [id for id in ids if self.get(id) < epoch]

    def opened(self, id: str) -> None:
        """A service engine can be asked from now on."""
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
            epoch, _ = self._current()
            behind = self.behind(epoch, self._live())
            if behind:
                pushes = [self._slots.run(self._pushing, id) for id in behind]
                await DeferredList(pushes, consumeErrors=True)
            if not self._again:
                await self._rest(bool(self.behind(epoch, self._live())))

    def _pushing(self, id: str) -> Deferred[None]:
        pushing = as_deferred(self._push(id))
        self._tasks.spawn(pushing, f"bringing the trust document to {id}")
        return pushing

    async def _push(self, id: str) -> None:
        epoch, signed = self._current()
        try:
            await self._pusher.trust(id, signed)
        except AvinetError as error:
            if self._said.get(id) != str(error):
                self._said[id] = str(error)
                self.log.warn("{id} has not taken trust document {epoch}: {why}", id=id, epoch=epoch, why=str(error))
        else:
            self._said.pop(id, None)
            self._seen.set(id, max(self.get(id), epoch))

    async def _rest(self, some_left: bool) -> None:
        """Until something changes; while some are behind no longer than until they are tried again."""
        self._woken = Deferred(lambda _: None)
        try:
            if some_left:
                await within(self._clock, RETRY_S, self._woken, "a change")
            else:
                await self._woken
        except TimedOut:
            pass
        finally:
            self._woken = None
