"""Queries of request logs that operators keep under a name: `log-query/NAME` in the store, each change with its record.

Times that were relative stay so: what is kept is a question, and becomes a query when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from avinet.config.rollouts import Audit
from avinet.enrolment.records import Record, put_record
from avinet.errors import Damaged, NotFound, Precondition, TooLarge, Unavailable
from avinet.ids import parse_id
from avinet.labels import parse_selector
from avinet.store.interface import Delete, Entry, Put, Store, Transaction, Unchanged
from avinet.wire.message import encode
from avinet.wire.saved_query import SAVED_LIMIT_BYTES, LogQuestion, SavedQuery, SavedQueryList

SAVED = b"log-query/"
MOST = 1000
PAGE_LIMIT_BYTES = 768 * 1024
_RACES = 10


class SavedRecord(Record, frozen=True, kw_only=True):
    """A query as it is kept; its name is in the key."""

    version: int
    author: str
    time: float
    question: LogQuestion


class SavedQueries:
    """The queries that are kept. `now` is the time of day in seconds since 1970."""

    log = Logger()

    def __init__(self, store: Store, now: Callable[[], float], audit: Audit) -> None:
        self._store = store
        self._now = now
        self._audit = audit

    async def get(self, name: str) -> SavedQuery:
        """One of them. Raises `NotFound`, and `Damaged` for one that this version cannot read."""
        entry = await self._read(name)
        if entry is None:
            raise _unknown(name)
        return _saved(name, entry)

    async def list(self, *, limit: int = 100, after: str = "") -> SavedQueryList:
        """A page of them, by name. One that cannot be read is left out, with a warning in the log."""
        page = await self._store.range(SAVED, limit=limit, after=SAVED + after.encode() if after else b"")
        items: list[SavedQuery] = []
        size, last = 0, ""
        for entry in page.entries:
            size += len(entry.value)
            if last and size > PAGE_LIMIT_BYTES:
                return SavedQueryList(items=items, next=last)
            last = entry.key.removeprefix(SAVED).decode()
            try:
                items.append(_saved(last, entry))
            except Damaged as error:
                self.log.warn("{why}", why=str(error))
        return SavedQueryList(items=items, next=last if page.more else "")

    async def put(self, name: str, question: LogQuestion, author: str, *, expected: int | None = None) -> SavedQuery:
        """Keep `question` under `name`, in place of what was.

        `expected` is the version that its author has seen, 0 for none.
        Raises `Invalid` for what could not be asked now, `Precondition` when another version is current, `TooLarge`.
        """
        parse_id(name, "name of a query")
        question.asked(int(self._now() * 1000))
        parse_selector(question.selector)
        if len(encode(question)) > SAVED_LIMIT_BYTES:
            raise TooLarge(f"a query that is kept may have {SAVED_LIMIT_BYTES} bytes")
        for _ in range(_RACES):
            entry = await self._read(name)
            current = _version(name, entry)
            _check_expected(name, current, expected)
            if entry is None and len((await self._store.range(SAVED, limit=MOST)).entries) >= MOST:
                raise TooLarge(f"there are {MOST} queries that are kept already")
            record = SavedRecord(version=current + 1, author=author, time=self._now(), question=question)
            outcome = f"version {record.version}"
            if await self._changed(name, entry, put_record(_key(name), record), "log-query-saved", author, outcome):
                return _shown(name, record)
        raise Unavailable(f"too many changes of the query {name} race with this one")

    async def delete(self, name: str, author: str, *, expected: int | None = None) -> None:
        """Forget one. Raises `NotFound` and `Precondition`."""
        for _ in range(_RACES):
            entry = await self._read(name)
            if entry is None:
                raise _unknown(name)
            current = _version(name, entry)
            _check_expected(name, current, expected)
            outcome = f"version {current}"
            if await self._changed(name, entry, Delete(_key(name)), "log-query-deleted", author, outcome):
                return
        raise Unavailable(f"too many changes of the query {name} race with this one")

    async def _read(self, name: str) -> Entry | None:
        key = _key(name)
        return (await self._store.read([key])).entries.get(key)

    async def _changed(
        self, name: str, before: Entry | None, then: Put | Delete, kind: str, author: str, outcome: str
    ) -> bool:
        """Whether `then` was done: not when it has changed since `before` was read."""
        unchanged = Unchanged(_key(name), before.revision if before else 0)
        done = await self._store.transact(Transaction((unchanged,), (then, self._audit(kind, author, name, outcome))))
        return done.succeeded


def _key(name: str) -> bytes:
    return SAVED + parse_id(name, "name of a query").encode("ascii")


def _saved(name: str, entry: Entry) -> SavedQuery:
    try:
        return _shown(name, msgspec.json.decode(entry.value, type=SavedRecord))
    except (msgspec.DecodeError, ValueError) as error:
        raise Damaged(
            f"the query {name} in the store cannot be read: {error}", hint="save it again, or upgrade this node"
        ) from error


def _shown(name: str, record: SavedRecord) -> SavedQuery:
    return SavedQuery(
        name=name, version=record.version, author=record.author, time=record.time, question=record.question
    )


class _Version(Record, frozen=True, kw_only=True):
    version: int


def _version(name: str, entry: Entry | None) -> int:
    """Its current version, 0 for none; also of one whose question cannot be read, which may be replaced."""
    if entry is None:
        return 0
    try:
        return msgspec.json.decode(entry.value, type=_Version).version
    except (msgspec.DecodeError, ValueError):
        return 0


def _check_expected(name: str, current: int, expected: int | None) -> None:
    if expected is not None and expected != current:
        raise Precondition(
            f"the query {name} is at version {current}, not {expected}" if current else f"no query is kept as {name}",
            hint=f"look at it again: avictl logs saved show {name}",
        )


def _unknown(name: str) -> NotFound:
    return NotFound(f"no query is kept as {name}", hint="see avictl logs saved list")
