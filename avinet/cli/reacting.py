"""The reactor, for as long as one verb needs it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.python.failure import Failure

from avinet.aio import as_deferred

T = TypeVar("T")


def reacting(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """What `work`, which is given the reactor, comes to. Once in a process: a reactor runs only once."""
    from twisted.internet import reactor

    ended: list[T | Failure] = []

    def begin() -> None:
        as_deferred(work(reactor)).addBoth(end)

    def end(result: T | Failure) -> None:
        ended.append(result)
        reactor.stop()

    reactor.callWhenRunning(begin)
    reactor.run()
    if not ended:
        raise KeyboardInterrupt
    if isinstance(ended[0], Failure):
        ended[0].raiseException()
    return ended[0]
