"""Floor 0: `async def` on Twisted: tasks that have an owner, waits that have a deadline."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError, TimedOut

T = TypeVar("T")
_log = Logger()

CANCELLED = (CancelledError, ConnectingCancelledError)
"""How a wait that was cancelled ends: an endpoint that was still connecting has an error of its own for it."""
BREATH = 200
"""How many things are looked through before the reactor gets its turn."""


def as_deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    """`awaitable` as a Deferred, where Twisted asks for one."""
    if isinstance(awaitable, Deferred):
        return awaitable
    assert isinstance(awaitable, Coroutine)
    return ensureDeferred(awaitable)


async def within(clock: IReactorTime, seconds: float, awaitable: Awaitable[T], what: str) -> T:
    """The result of `awaitable`, cancelled after `seconds`.

    Raises `TimedOut`, saying `what` gave no answer.
    """
    deferred = as_deferred(awaitable)
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        deferred.cancel()

    timer = clock.callLater(seconds, expire)
    try:
        return await deferred
    except CANCELLED:
        if late:
            raise TimedOut(f"{what} gave no answer within {seconds:g} s") from None
        raise
    finally:
        if timer.active():
            timer.cancel()


def cancellable(awaitable: Awaitable[T]) -> Deferred[T]:
    """`awaitable`, for which being cancelled is the end, whatever it would make of that."""
    inner = as_deferred(awaitable)
    cancelled = False

    def cancel(_: Deferred[T]) -> None:
        nonlocal cancelled
        cancelled = True
        inner.cancel()

    outer: Deferred[T] = Deferred(cancel)

    def ended(result: Any) -> None:
        if not cancelled:
            outer.callback(result)

    inner.addBoth(ended)
    return outer


async def to_the_end(awaitable: Awaitable[T]) -> T:
    """The result of `awaitable`, which is not cancelled with this: whoever is cancelled waits for its end.

    For what goes on all the same, such as a thread at work on a file.
    """
    bell: Deferred[None] = Deferred(lambda _: None)
    found: list[Any] = []

    def ended(result: Any) -> None:
        found.append(result)
        if not bell.called:
            bell.callback(None)

    as_deferred(awaitable).addBoth(ended)
    cancelled = False
    while not found:
        try:
            await bell
        except CancelledError:
            cancelled = True
            bell = Deferred(lambda _: None)
    if cancelled:
        raise CancelledError
    if isinstance(found[0], Failure):
        found[0].raiseException()
    result: T = found[0]
    return result


async def in_turn(*ends: Callable[[], object]) -> None:
    """Call `ends` one after the other, and await what takes a while. A fault is logged: the next comes all the same.

    For what ends with a process: threads of whoever was left out would keep it from ending.
    """
    for each in ends:
        try:
            done = each()
            if isawaitable(done):
                await done
        except CANCELLED:
            raise
        except AvinetError as error:
            _log.warn("not all has ended in order: {why}", why=str(error))
        except Exception:
            _log.failure("a fault of ours in what ends in order")


def pause(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Fires after `seconds`; cancelling it takes the timer away."""
    deferred: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, deferred.callback, None)
    return deferred


class News:
    """What fails time after time for one reason is worth one line, until it goes well again."""

    def __init__(self) -> None:
        self._last = ""

    def fresh(self, reason: str) -> bool:
        """Whether it is not the same again; it goes well when there is no `reason`."""
        before, self._last = self._last, reason
        return bool(reason) and reason != before


class Slots:
    """`count` may be in here at once (`async with slots`); the others wait, and come in as they came.

    Who waits is let in by a loop, and not by whoever leaves: `DeferredSemaphore` goes one deeper for each that is
    done at once, and a few hundred in a row are too many for the stack.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: deque[Deferred[None]] = deque()
        self._calling = False

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._line)

    async def __aenter__(self) -> None:
        if self._free and not self._line:
            self._free -= 1
            return
        turn: Deferred[None] = Deferred(self._line.remove)
        self._line.append(turn)
        await turn

    async def __aexit__(self, *raised: object) -> None:
        self._free += 1
        if self._calling:
            return
        self._calling = True
        try:
            while self._free and self._line:
                self._free -= 1
                self._line.popleft().callback(None)
        finally:
            self._calling = False


class Tasks:
    """The background work of one owner: each failure is logged, and all of it ends with the owner.

    A task that fails with an `AvinetError` costs one warning line; any other failure is a fault of ours and is logged
    with its traceback.
    """

    log = Logger()

    def __init__(self) -> None:
        self._running: dict[Deferred[Any], Deferred[None]] = {}
        self._stopped = False

    def spawn(
        self, work: Awaitable[Any], what: str, on_failure: Callable[[Failure], None] | None = None
    ) -> Deferred[None]:
        """Run `work` until it ends or the owner stops; the result fires when it has ended, and never fails."""
        deferred = as_deferred(work)
        ended: Deferred[None] = Deferred()
        self._running[deferred] = ended

        def finished(result: object) -> None:
            self._running.pop(deferred, None)
            if isinstance(result, Failure) and not (self._stopped and result.check(*CANCELLED)):
                self._failed(result, what, on_failure)
            ended.callback(None)

        deferred.addBoth(finished)
        if self._stopped:
            deferred.cancel()
        return ended

    def _failed(self, failure: Failure, what: str, on_failure: Callable[[Failure], None] | None) -> None:
        if failure.check(AvinetError):
            self.log.warn("{what}: {reason}", what=what, reason=str(failure.value))
        elif not failure.check(*CANCELLED):
            self.log.failure("{what} failed", failure, what=what)
        if on_failure is not None:
            on_failure(failure)

    def stop(self) -> None:
        """Cancel all that runs; what is spawned from now on is cancelled at once."""
        self._stopped = True
        for deferred in list(self._running):
            deferred.cancel()

    async def end(self) -> None:
        """Stop, and wait for what each still does when it is cancelled: that has a deadline of its own."""
        self.stop()
        while self._running:
            await next(iter(self._running.values()))

    def __len__(self) -> int:
        return len(self._running)
