"""The store on etcd; see `avinet.store.interface.Store`.

Below the prefix of a domain, `data/` has its keys, `marker/NODE/` those of `avinet.store.etcd.transactions`, and
`origin` the format, and where the domain's revisions begin.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from random import random as uniform
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from avinet.aio import Tasks, as_deferred, pause
from avinet.errors import AvinetError, Conflict, LocalError, NotFound, TooLarge, Unavailable
from avinet.store.etcd.exchange import Lost
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.messages import (
    CompactionRequest,
    Compare,
    KeyValue,
    LeaseGrantRequest,
    LeaseReply,
    LeaseRequest,
    RangeReply,
    RangeRequest,
    Reply,
    RequestOp,
    Streamed,
    TxnReply,
    TxnRequest,
    decoded,
)
from avinet.store.etcd.origin import FORMAT, Origin, OriginKey
from avinet.store.etcd.transactions import Transactions
from avinet.store.etcd.watching import EtcdWatch
from avinet.store.interface import (
    OPERATIONS,
    Compacted,
    Entry,
    Outcome,
    Page,
    Seen,
    Snapshot,
    Transaction,
    check,
    end_of,
)
from avinet.store.resting import FilePlace

T = TypeVar("T")
PULSE_S = 1.0
"""How often the member that the watches are at has to answer: one that is asleep sends no events, and no end."""


class EtcdStore:
    """The keys below `prefix` of the etcd behind `gateway`; `node` names this process among those that write there.

    In `place` the node remembers that its state is here.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        gateway: Gateway,
        *,
        prefix: str,
        node: str,
        place: FilePlace | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._reactor = reactor
        self._file = place
        self._random = random
        self._gateway = gateway
        self._gateway.moved = self._moved
        self._place = f"{prefix}/data/".encode()
        self._origin_key = OriginKey(gateway, prefix)
        self._marker_place = f"{prefix}/marker/{node}/".encode()
        self._watches: list[EtcdWatch] = []
        self._underway: set[Deferred[Any]] = set()
        self._closed = False
        self._tasks = Tasks()

    def silent_s(self) -> float:
        """See `Store.silent_s`."""
        return self._gateway.silent_s()

    async def open(self, revision: int = 0) -> None:
        """See `Store.open`. The revisions of the domain begin behind `revision`, if this is the first time.

        Raises `LocalError` for a newer format, and where the state is not used here.
        """
        origin, at = await self._origin_key.look()
        if origin is None and self._file is not None and self._file.is_elsewhere():
            raise LocalError(
                "etcd has nothing of this domain, and this node has used it there",
                hint="look at endpoints and prefix under [store]; if etcd has lost it: avictl restore",
            )
        if origin is None:
            with suppress(Conflict):
                await self._origin_key.change(0, Origin(format=FORMAT, revision=revision))
            origin, at = await self._origin_key.look()
            assert origin is not None
        origin.check()
        if origin.state == "arrived":
            origin = msgspec.structs.replace(origin, state="used", other="")
            await self._origin_key.change(at, origin)
        self.open_at(origin, await self._origin_key.unchanged(origin))
        await self._transactions.open()
        if self._file is not None:
            self._file.use_elsewhere()

    def open_at(self, origin: Origin, fence: Compare | None = None) -> None:
        """Get ready with `origin`, whatever it says of its state; see `Transactions`."""
        self._origin = origin
        self._transactions = Transactions(
            self._gateway, self._place, self._marker_place, self._origin, self._random, fence
        )
        if not len(self._tasks):  # the first time that it is tried
            self._tasks.spawn(self._pulse(), "looking whether etcd answers")

    def _do(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Begin `work`, unless the store is closed; closing waits for it."""
        if self._closed:
            work.close()
            raise Unavailable("the store is closed")
        deferred = as_deferred(work)
        self._underway.add(deferred)

        def over(result: Any) -> Any:
            self._underway.discard(deferred)
            return result

        return deferred.addBoth(over)

    async def read(self, keys: Sequence[bytes]) -> Snapshot:
        """See `Store.read`."""
        if len(keys) > OPERATIONS:
            raise TooLarge(f"more than {OPERATIONS} keys were asked for at once")
        return await self._do(self._read(keys))

    async def _read(self, keys: Sequence[bytes]) -> Snapshot:
        # Without a key that is read etcd answers from the member's own memory, which may be behind.
        ranges = [RangeRequest(key=self._place + key) for key in keys] or [RangeRequest(key=self._place)]
        request = TxnRequest(compare=[], success=[RequestOp(request_range=each) for each in ranges])
        reply = await self._gateway.ask("/v3/kv/txn", request, TxnReply)
        found = [kv for each in reply.responses if each.response_range is not None for kv in each.response_range.kvs]
        return Snapshot(self._origin.of(reply.header.revision), {entry.key: entry for entry in map(self._entry, found)})

    def _entry(self, found: KeyValue) -> Entry:
        return self._origin.entry(found, self._place)

    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        """See `Store.range`; a page is cut shorter where it would be too large."""
        return await self._do(self._range(prefix, limit, after))

    async def range_at(self, revision: int, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        """As `range`, as it was at `revision`; raises `Compacted`. The page says `revision`, whatever is there now."""
        page = await self._do(self._range(prefix, limit, after, self._origin.etcd(revision)))
        return replace(page, revision=revision)

    async def _range(self, prefix: bytes, limit: int, after: bytes, revision: int = 0) -> Page:
        begin = self._place + (max(prefix, after + b"\0") if after else prefix)
        end = end_of(self._place + prefix)
        while True:
            try:
                request = RangeRequest(key=begin, range_end=end, limit=limit, revision=revision)
                reply = await self._gateway.ask("/v3/kv/range", request, RangeReply)
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
            else:
                return Page(
                    self._origin.of(reply.header.revision), [self._entry(each) for each in reply.kvs], reply.more
                )

    async def transact(self, transaction: Transaction) -> Outcome:
        """See `Store.transact`; raises `Uncertain` where it is not known what became of it."""
        check(transaction)
        return await self._do(self._transactions.transact(transaction))

    def watch(self, prefix: bytes, revision: int, seen: Seen) -> EtcdWatch:
        """See `Store.watch`."""
        watch = EtcdWatch(
            self._reactor, self._gateway, self._origin, self._place, prefix, revision, seen, self._forget, uniform
        )
        if not watch.failed.called:
            self._watches.append(watch)
        return watch

    def _forget(self, watch: EtcdWatch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def _moved(self) -> None:
        for watch in list(self._watches):
            watch.move()

    async def _pulse(self) -> None:
        while True:
            await pause(self._reactor, PULSE_S)
            if self._watches:
                endpoint = self._gateway.endpoint
                try:
                    await self._gateway.once(endpoint, "/v3/kv/range", RangeRequest(key=self._place, count_only=True))
                except Lost as error:
                    self._gateway.leave(endpoint, error.what)
                except AvinetError as error:  # it answers
                    self.log.warn("etcd at {endpoint}: {why}", endpoint=endpoint, why=str(error))

    async def grant(self, ttl_s: float) -> int:
        """See `Store.grant`; etcd counts in whole seconds, and has a least time of its own."""
        id = int.from_bytes(self._random(8), "big") >> 1 or 1
        return await self._do(self._grant(id, math.ceil(ttl_s)))

    async def _grant(self, id: int, ttl_s: int) -> int:
        with suppress(Conflict):  # an attempt before this one was done
            await self._gateway.ask("/v3/lease/grant", LeaseGrantRequest(TTL=ttl_s, ID=id), LeaseReply)
        return id

    async def keep_alive(self, lease: int) -> None:
        """See `Store.keep_alive`; it waits behind nothing else that is asked."""
        await self._do(self._keep_alive(lease))

    async def _keep_alive(self, lease: int) -> None:
        streamed = await self._gateway.ask_at_once("/v3/lease/keepalive", LeaseRequest(ID=lease), Streamed)
        if decoded(streamed.result, LeaseReply).TTL <= 0:
            raise NotFound(f"lease {lease} has ended")

    async def revoke(self, lease: int) -> None:
        """See `Store.revoke`."""
        await self._do(self._revoke(lease))

    async def _revoke(self, lease: int) -> None:
        with suppress(NotFound):
            await self._gateway.ask("/v3/lease/revoke", LeaseRequest(ID=lease), LeaseReply)

    async def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        await self._do(self._compact(revision))

    async def _compact(self, revision: int) -> None:
        with suppress(Compacted):  # more of it is forgotten already
            await self._gateway.ask("/v3/kv/compaction", CompactionRequest(revision=self._origin.etcd(revision)), Reply)

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._tasks.stop()
        for watch in list(self._watches):
            watch.stop()
        await DeferredList(list(self._underway))
        await self._gateway.close()
