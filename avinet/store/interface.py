"""The store's interface: asynchronous, with etcd's meaning, so that a domain can move from one engine to another.

A revision counts transactions that changed something; each key has the revision of its last change. Readers and writers
never see half a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, TooLarge, Unavailable

VALUE_LIMIT_BYTES = 512 * 1024
KEY_LIMIT_BYTES = 512
TRANSACTION_LIMIT_BYTES = 1024 * 1024
OPERATIONS = 64


class Compacted(AvinetError):
    """The history that a watch asked for is gone: list again, and watch from there."""


class Uncertain(Unavailable):
    """The store gave no answer: what was to be written may have been written, now or a little later, or not."""


@dataclass(frozen=True)
class Entry:
    """A key as it is: `revision` of its last change, `created` of the change that made it.

    `lease` is what it goes with, if there is one; what is read says so, and events need not.
    """

    key: bytes
    value: bytes
    revision: int
    created: int
    lease: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The keys that exist among those asked for, all as of `revision`."""

    revision: int
    entries: Mapping[bytes, Entry]


@dataclass(frozen=True)
class Page:
    """Entries in the order of their keys, as of `revision`; `more` when the limit cut them off."""

    revision: int
    entries: Sequence[Entry]
    more: bool


@dataclass(frozen=True)
class Unchanged:
    """A condition: the key's last change was `revision`; 0 when the key must not exist."""

    key: bytes
    revision: int


@dataclass(frozen=True)
class Put:
    """Set a key; with a `lease` it goes when the lease does."""

    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    """Remove a key; none of that name is no error."""

    key: bytes


@dataclass(frozen=True)
class Transaction:
    """If all `conditions` hold then all of `then` happens, else nothing does. No key stands twice in `then`."""

    conditions: tuple[Unchanged, ...]
    then: tuple[Put | Delete, ...]


@dataclass(frozen=True)
class Outcome:
    """Whether the conditions held; `revision` is that of the transaction, or the store's when nothing changed."""

    succeeded: bool
    revision: int


@dataclass(frozen=True)
class Event:
    """One change of one key: its new entry, or None when it was removed at `revision`."""

    key: bytes
    revision: int
    entry: Entry | None


Seen = Callable[[Sequence[Event]], None]


class Watch(Protocol):
    """A watch that is under way.

    `failed` fires with what ended it: `Compacted`, `Unavailable`, or what `seen` raised; never after `stop`.
    """

    failed: Deferred[None]

    def stop(self) -> None:
        """See no more events."""


class Store(Protocol):
    """The store of a domain of trust.

    Every method raises `Unavailable` while the store cannot be reached or cannot write, as `Uncertain` where what was
    asked may have been done all the same; and `TooLarge` for what is over its limits, before anything is written.
    """

    async def open(self) -> None:
        """Get ready; nothing else may be asked before. Raises `Unavailable`, after which it may be tried again."""

    def silent_s(self) -> float:
        """For how many seconds the store has not answered; 0 while it does."""

    async def read(self, keys: Sequence[bytes]) -> Snapshot:
        """The entries of `keys` (at most 64), linearizable."""

    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        """Entries whose keys begin with `prefix` and sort after `after`."""

    async def transact(self, transaction: Transaction) -> Outcome:
        """Do a transaction, durably: when it returns, the outcome stands.

        Raises `NotFound` for a `Put` under a lease that has ended; nothing is written then.
        """

    def watch(self, prefix: bytes, revision: int, seen: Seen) -> Watch:
        """Call `seen` with the events below `prefix` after `revision`: each once, in order, whole revisions."""

    async def grant(self, ttl_s: float) -> int:
        """A new lease, which ends `ttl_s` after it was last kept alive."""

    async def keep_alive(self, lease: int) -> None:
        """Begin the lease's time anew. Raises `NotFound` when it has ended."""

    async def revoke(self, lease: int) -> None:
        """End a lease and remove its keys; none of that number is no error."""

    async def compact(self, revision: int) -> None:
        """Forget the history up to `revision`; the entries stay."""

    async def close(self) -> None:
        """Finish what is under way and close; watches end silently."""


def check(transaction: Transaction) -> None:
    """Refuse a transaction that is over the limits of any store. Raises `TooLarge`, or `ValueError` for our mistake."""
    if len(transaction.conditions) + len(transaction.then) > OPERATIONS:
        raise TooLarge(f"a transaction has more than {OPERATIONS} operations")
    size = 0
    written = set()
    for operation in transaction.then:
        if operation.key in written:
            raise ValueError(f"{operation.key!r} stands twice in a transaction")
        written.add(operation.key)
        check_key(operation.key)
        value = operation.value if isinstance(operation, Put) else b""
        if len(value) > VALUE_LIMIT_BYTES:
            raise TooLarge(f"the value of {operation.key!r} has more than {VALUE_LIMIT_BYTES} bytes")
        size += len(operation.key) + len(value)
    for condition in transaction.conditions:
        check_key(condition.key)
    if size > TRANSACTION_LIMIT_BYTES:
        raise TooLarge(f"a transaction has more than {TRANSACTION_LIMIT_BYTES} bytes")


def check_key(key: bytes) -> None:
    """Refuse a key that no store takes. Raises `TooLarge`."""
    if not 0 < len(key) <= KEY_LIMIT_BYTES:
        raise TooLarge(f"a key must have 1 to {KEY_LIMIT_BYTES} bytes")


def end_of(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`; empty when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b""
