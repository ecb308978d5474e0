"""A node's store at work, in a process of its own: python -m bench.storing measure|steady FOLDER COUNT

FOLDER has the settings of the store in `store.json`, and the store itself where that is a file. `measure` prints rates
and times as JSON. `steady` writes with a few in flight until its standard input ends, and prints of each write when it
began and when it was acknowledged, in seconds of the system's monotonic clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from typing_extensions import override

from avinet import loop
from avinet.aio import as_deferred, pause
from avinet.errors import Unavailable
from avinet.store.choose import StoreSettings, choose_store
from avinet.store.interface import Put, Store, Transaction

IN_FLIGHT = 32
VALUE_BYTES = 1024
KEYS = 1000
STEADY = 4
AGAIN_S = 0.01

reactor: Any = loop.reactor()


class Measured(msgspec.Struct, frozen=True):
    """Rates for each second with 32 in flight; seconds of single ones, which nothing else was beside."""

    writes: float
    reads: float
    write_s: list[float]
    read_s: list[float]
    watch_s: list[float]


def key(number: int) -> bytes:
    """One of a thousand."""
    return b"bench/%d" % (number % KEYS)


def write(number: int) -> Transaction:
    """A transaction that writes a kilobyte."""
    return Transaction((), (Put(key(number), b"%d" % number + b"x" * VALUE_BYTES),))


async def opened(folder: Path, node: str) -> Store:
    """The store that the settings in `folder` name."""
    settings = msgspec.json.decode((folder / "store.json").read_bytes(), type=StoreSettings)
    store = choose_store(reactor, settings, folder, folder, domain="bench", node=node, now=time.time)
    await store.open()
    return store


async def rate(count: int, ask: Callable[[int], Awaitable[object]]) -> float:
    """How many of `count` are done in a second."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    await gatherResults([as_deferred(work()) for _ in range(IN_FLIGHT)])
    return count / (time.perf_counter() - began)


async def times(count: int, ask: Callable[[int], Awaitable[object]]) -> list[float]:
    """How long each takes of `count`, one after the other."""
    found = []
    for number in range(count):
        began = time.perf_counter()
        await ask(number)
        found.append(time.perf_counter() - began)
    return found


async def events(count: int, store: Store, watching: Store) -> list[float]:
    """How long it takes from the beginning of a write until a watch has seen it, `count` times."""
    arrived: Deferred[None] = Deferred()

    def seen(batch: object) -> None:
        arrived.callback(None)

    watch = watching.watch(b"bench/", (await store.read([])).revision, seen)
    found = []
    for number in range(count):
        arrived = Deferred()
        began = time.perf_counter()
        written = as_deferred(store.transact(write(number)))
        await arrived
        found.append(time.perf_counter() - began)
        await written
    watch.stop()
    return found


async def measure(folder: Path, count: int) -> None:
    """Print what is measured, after a warm-up; the watch is another node's, where there can be one."""
    store = await opened(folder, "node-1")
    watching = store if (folder / "store.sqlite").exists() else await opened(folder, "node-2")
    put, get = lambda number: store.transact(write(number)), lambda number: store.read([key(number)])
    await rate(KEYS, put)
    found = Measured(
        await rate(count, put),
        await rate(count, get),
        await times(count // 4, put),
        await times(count // 4, get),
        await events(count // 4, store, watching),
    )
    for each in {store, watching}:
        await each.close()
    print(msgspec.json.encode(found).decode(), flush=True)


async def steady(folder: Path, count: int) -> None:
    """Write on, whatever happens to the store, `count` times at most."""
    store = await opened(folder, "node-1")
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True

    StandardIO(Until(end))

    async def work(number: int) -> None:
        for each in range(number, count, STEADY):
            if ended:
                return
            began = time.monotonic()
            try:
                await store.transact(write(each))
            except Unavailable:
                await pause(reactor, AGAIN_S)
            else:
                print(f"{began:.6f} {time.monotonic():.6f}", flush=True)

    await gatherResults([as_deferred(work(number)) for number in range(STEADY)])
    await store.close()


class Until(Protocol):
    """Calls `end` when the input ends."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()


TASKS = {"measure": measure, "steady": steady}

if __name__ == "__main__":
    running = as_deferred(TASKS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3])))
    running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr, flush=True))
    running.addBoth(lambda _: reactor.callLater(0, reactor.stop))
    reactor.run()
