"""The audit log: records are sealed in the order of their revisions into a Merkle log as in RFC 9162.

Whatever changes something writes its record below `audit/`, in the same transaction. From there they go into the log:

- `log/leaf/SEQ`: a record as JSON, whose exact bytes are the leaf; the numbers begin with 0 and have no gaps;
- `log/tile/LEVEL/INDEX`: hashes of the tree (see `avinet.enrolment.tiles`);
- `log/head`: size and root, signed by the issuing CA, and the right edge of the tree.

A transaction moves as many records as it has room for, and only if the head is still the one that it read: nothing is
sealed twice or passed over, whoever seals. A lease keeps it to one node, so that the others do not try in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.aio import CANCELLED, News, Tasks, as_deferred, pause
from avinet.enrolment.records import AUDIT, AuditRecord, Record, put_record
from avinet.enrolment.tiles import Tiles
from avinet.errors import AvinetError, Invalid, Unavailable
from avinet.store.entries import entries
from avinet.store.interface import Delete, Entry, Event, Put, Store, Transaction, Unchanged, Watch
from avinet.trust.merkle import EMPTY, Frontier, leaf
from avinet.wire.audit import LogHead, LogProof, head_text
from avinet.wire.fleet import Event as LogEvent
from avinet.wire.fleet import EventList

LEAVES, HEAD, SEALER = b"log/leaf/", b"log/head", b"log/sealer"
WAIT_S = 0.2
"""How long a record waits for others to be sealed with."""
LEASE_S = 10.0
SKEW_S = 600.0
"""How far the clocks of two nodes may differ: records are in the order of revisions, not of times."""
FRESH_S = 1.0
"""How old the head may be that service engines are told."""
RETRY_S = 1.0
_TOGETHER = 24
"""Two operations for each record, and those for tiles and head: it fits."""
_RACES = 20
_LOOK, _LOOKS = 500, 20

Sign = Callable[[bytes], tuple[str, str]]
"""Signs a text: the signature, and the issuing CA's certificate."""


class HeadRecord(Record, frozen=True, kw_only=True):
    """The head as it is stored: `edge` are the hashes of the perfect subtrees, in hexadecimal, from the left."""

    head: LogHead
    edge: list[str] = []


def leaf_key(seq: int) -> bytes:
    """Where the record with this number is."""
    return LEAVES + b"%015d" % seq


class AuditLog:
    """The log of the domain `domain`, sealed by `node`. `now` is the time of day."""

    log = Logger()

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        tasks: Tasks,
        *,
        domain: str,
        node: str,
        now: Callable[[], float],
        sign: Sign,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._domain = domain
        self._node = node
        self._now = now
        self._sign = sign
        self._sealing = DeferredLock()
        self._watch: Watch | None = None
        self._sealer = False
        self._due: IDelayedCall | None = None
        self._tiles = Tiles(store)
        self._recent: LogHead | None = None
        self._read_at = 0.0

    # sealing

    def start(self) -> None:
        """Seal what is there, and what comes, while no other node does."""
        self._tasks.spawn(self._keep_sealing(), "sealing the audit log")

    def stop(self) -> None:
        """Seal no more."""
        if self._watch is not None:
            self._watch.stop()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    async def _keep_sealing(self) -> None:
        news = News()
        while True:
            try:
                lease = await self._store.grant(LEASE_S)
                news.fresh("")
                await self._seal_under(lease)
            except AvinetError as error:
                if news.fresh(str(error)):
                    self.log.warn("the audit log is not sealed for now: {why}", why=str(error))
            except CANCELLED:
                raise
            except Exception:  # the edge: a log that is damaged is said to be, and looked at again
                self.log.failure("the audit log cannot be sealed")
            await pause(self._clock, RETRY_S)

    async def _seal_under(self, lease: int) -> None:
        """Hold the office of the sealer for as long as the lease can be kept, if nobody else does."""
        name = self._node.encode("ascii")
        entry = (await self._store.read([SEALER])).entries.get(SEALER)
        free = entry is None or entry.value == name  # it was this node, before it was started again
        condition = Unchanged(SEALER, entry.revision if entry else 0)
        taking = Transaction((condition,), (Put(SEALER, name, lease),))
        if not free or not (await self._store.transact(taking)).succeeded:
            await self._store.revoke(lease)
            await pause(self._clock, LEASE_S)
            return
        revision = (await self._store.range(AUDIT, limit=1)).revision
        watch = self._watch = self._store.watch(AUDIT, revision, self._seen)
        ended = False

        def end(_: object) -> None:
            nonlocal ended
            ended = True

        watch.failed.addBoth(end)
        try:
            while not ended:
                await self.seal()  # what a full disk has kept from being sealed before, too
                await pause(self._clock, LEASE_S / 3)
                await self._store.keep_alive(lease)
        finally:
            watch.stop()
            self._watch = None

    def _seen(self, events: Sequence[Event]) -> None:
        if self._due is None and any(event.entry is not None for event in events):
            self._due = self._clock.callLater(WAIT_S, self._seal_now)

    def _seal_now(self) -> None:
        self._due = None
        self._tasks.spawn(self.seal(), "sealing the audit log")

    async def seal(self) -> HeadRecord:
        """Seal all records that were written before this was called; returns the head with them."""
        found: HeadRecord = await self._sealing.run(lambda: as_deferred(self._seal()))
        return found

    async def _seal(self) -> HeadRecord:
        for _ in range(_RACES):
            records = await self._unsealed()
            entry, head = await self._read_head()
            if not records:
                return head
            for at in range(0, len(records), _TOGETHER):
                sealed = await self._move(records[at : at + _TOGETHER], entry, head)
                if sealed is None:
                    break  # another node has sealed some
                entry, head = sealed
            else:
                return head
        raise Unavailable("others seal the audit log all the time")

    async def _unsealed(self) -> list[Entry]:
        """All records that are not sealed yet, in the order of their revisions."""
        found = [entry async for entry in entries(self._store, AUDIT)]
        return sorted(found, key=lambda each: (each.revision, each.key))

    async def _read_head(self) -> tuple[int, HeadRecord]:
        """The head, with the revision of its entry; 0 for that of an empty log, which is signed when it is read."""
        entry = (await self._store.read([HEAD])).entries.get(HEAD)
        if entry is None:
            return 0, HeadRecord(head=self._signed(0, EMPTY))
        return entry.revision, msgspec.json.decode(entry.value, type=HeadRecord)

    async def _move(self, records: Sequence[Entry], revision: int, before: HeadRecord) -> tuple[int, HeadRecord] | None:
        """Seal `records` behind the head `before`; the new one, or None when that is not the head any more."""
        frontier = Frontier(before.head.size, [bytes.fromhex(each) for each in before.edge])
        tiles = await self._tiles.at_edge(frontier.size)
        leaves, moved = [], []
        for entry in records:
            seq = frontier.size
            record = msgspec.json.decode(entry.value, type=AuditRecord)
            data = msgspec.json.encode({"seq": seq, "revision": entry.revision, **msgspec.to_builtins(record)})
            for level, index, found in frontier.add(leaf(data)):
                tiles.add(level, index, found)
            leaves.append(Put(leaf_key(seq), data))
            moved.append(Delete(entry.key))
        head = HeadRecord(
            head=self._signed(frontier.size, frontier.root()), edge=[each.hex() for each in frontier.hashes]
        )
        done = await self._store.transact(
            Transaction((Unchanged(HEAD, revision),), (*leaves, *moved, *tiles.puts(), put_record(HEAD, head)))
        )
        if not done.succeeded:
            return None
        self._recent, self._read_at = head.head, self._clock.seconds()
        return done.revision, head

    def _signed(self, size: int, root: bytes) -> LogHead:
        now = self._now()
        signature, issuer = self._sign(head_text(self._domain, size, root.hex(), now))
        return LogHead(domain=self._domain, size=size, root=root.hex(), time=now, signature=signature, issuer=issuer)

    # reading

    async def head(self) -> LogHead:
        """The head of the log as it is stored."""
        return (await self._read_head())[1].head

    async def since(self, first: int) -> LogProof:
        """What the log is now, and that it begins with that of `first` records.

        When it has fewer than that, it has been cut off, and there is no proof.
        """
        now = self._clock.seconds()
        if self._recent is None or self._recent.size < first or now - self._read_at > FRESH_S:
            self._recent, self._read_at = await self.head(), now
        head = self._recent
        hashes = await self.proof(first, head.size) if first <= head.size else []
        return LogProof(first=first, size=head.size, root=head.root, hashes=hashes)

    async def since_time(self, time: float) -> int:
        """The number of a record such that all before it are older than `time`, but for what clocks differ by."""
        low, high = 0, (await self.head()).size
        while low < high:
            middle = (low + high) // 2
            found = await self.entries(middle, 1)
            if found and msgspec.json.decode(found[0], type=LogEvent).time < time - SKEW_S:
                low = middle + 1
            else:
                high = middle
        return low

    async def events(
        self, after: str, limit: int, wanted: Callable[[LogEvent], bool] = lambda event: True, since: float = 0.0
    ) -> EventList:
        """Those records behind the cursor `after`, from the time `since` on, that are `wanted`.

        Only so many are looked at in one call: `next` says where to go on, and is empty at the end of the log; `seen`
        is the last that was looked at. Raises `Invalid` for what is no cursor.
        """
        if after and not (after.isascii() and after.isdigit() and len(after) < 16):
            raise Invalid(f"{after[:40]!r} is no cursor of the audit log")
        first = int(after) + 1 if after else await self.since_time(since) if since else 0
        items: list[LogEvent] = []
        seen = after
        for _ in range(_LOOKS):
            found = [msgspec.json.decode(each, type=LogEvent) for each in await self.entries(first, _LOOK)]
            for event in found:
                seen = str(event.seq)
                if wanted(event) and event.time >= since:
                    items.append(event)
                    if len(items) == limit:
                        last = len(found) < _LOOK and event is found[-1]
                        return EventList(items=items, next="" if last else seen, seen=seen)
            if len(found) < _LOOK:
                return EventList(items=items, seen=seen)
            first = found[-1].seq + 1
        return EventList(items=items, next=seen, seen=seen)

    async def proof(self, first: int, size: int) -> list[str]:
        """The proof that the log of `size` records begins with that of `first`, in base64. Raises `Invalid`."""
        return await self._tiles.proof(first, size)

    async def entries(self, first: int, limit: int) -> list[bytes]:
        """Records from number `first` on, as their exact bytes."""
        after = leaf_key(first - 1) if first else b""
        page = await self._store.range(LEAVES, limit=limit, after=after)
        return [entry.value for entry in page.entries]
