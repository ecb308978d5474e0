"""Tests that are coroutines, and conditions that come true: for tests over the real reactor."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred

from avinet.aio import pause
from demo.machine import free_ports

T = TypeVar("T")


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Deferred[None]]:
    """A test method that is a coroutine, as trial wants it."""

    @functools.wraps(test)
    def run(*args: Any) -> Deferred[None]:
        return ensureDeferred(test(*args))

    return run


async def eventually(what: str, seen: Callable[[], T | Awaitable[T]], timeout_s: float = 20) -> T:
    """What `seen` gives as soon as it is true; fails after `timeout_s`, saying `what` did not happen."""
    deadline = reactor.seconds() + timeout_s
    while True:
        found = seen()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if reactor.seconds() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await pause(reactor, 0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listened on a moment ago; it stays free while its server is stopped."""
    return free_ports(1)[0]
