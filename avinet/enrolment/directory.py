"""The service engines of the domain as the store has them, in memory: by id, and by the fingerprint of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.aio import Tasks
from avinet.enrolment.records import ENGINES, EngineRecord
from avinet.errors import Invalid, NotFound
from avinet.ids import parse_id
from avinet.store.interface import Entry, Store
from avinet.store.mirror import Mirror
from avinet.trust import keys

Changed = Callable[[str, EngineRecord | None], None]


@dataclass(frozen=True)
class Login:
    """Who has authenticated: the service engine whose key it was, and the generation that the key belongs to."""

    id: str
    generation: int
    fingerprint: str


class Directory:
    """A view of the records below `engine/`; `changed` is called for each that changes, with None when it goes."""

    def __init__(self, store: Store, clock: IReactorTime, tasks: Tasks, changed: Changed) -> None:
        self._changed = changed
        self._engines: dict[str, EngineRecord] = {}
        self._ids: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._mirror = Mirror(store, clock, tasks, ENGINES, self._take, "the directory of service engines")

    @property
    def revision(self) -> int:
        """The revision of the store that is known of."""
        return self._mirror.revision

    async def start(self) -> None:
        """Read all records, and follow their changes from there."""
        await self._mirror.start()

    def stop(self) -> None:
        """Follow no more changes."""
        self._mirror.stop()

    def _take(self, id: str, entry: Entry | None) -> None:
        old = self._engines.pop(id, None)
        if old is not None:
            for known, key in self._keys(old):
                if known.get(key) == id:
                    del known[key]
        record = None
        if entry is not None:
            whole = msgspec.json.decode(entry.value, type=EngineRecord)
            record = self._engines[id] = msgspec.structs.replace(whole, receipt="")
            for known, key in self._keys(record):
                known[key] = id
        if record != old:
            self._changed(id, record)

    def _keys(self, record: EngineRecord) -> Iterator[tuple[dict[str, str], str]]:
        """The tables that a record has a place in."""
        if record.state == "enrolled":
            yield self._ids, record.fingerprint
        yield from ((self._owners, key) for key in (record.public_key, record.host_key, *record.former) if key)

    def owner(self, public_key: str) -> str | None:
        """Whose key it is or was, the host key of its SSH service included; None for a stranger's."""
        return self._owners.get(public_key)

    def is_host_key(self, public_key: str) -> bool:
        """Whether it is the host key of a service engine's SSH service."""
        id = self._owners.get(public_key)
        return id is not None and self._engines[id].host_key == public_key

    def login(self, public_key: str) -> Login | None:
        """Whose key it is, in O(1); None for a key that may not log in."""
        try:
            fingerprint = keys.fingerprint(public_key)
        except Invalid:
            return None
        id = self._ids.get(fingerprint)
        return None if id is None else Login(id, self._engines[id].generation, fingerprint)

    def get(self, id: str) -> EngineRecord | None:
        """The record of a service engine."""
        return self._engines.get(id)

    def require(self, id: str) -> EngineRecord:
        """The record of a service engine. Raises `Invalid` for what is no id, and `NotFound`."""
        record = self._engines.get(parse_id(id, "service engine id"))
        if record is None:
            raise NotFound(f"there is no service engine {id}", hint="see avictl se list")
        return record

    def __iter__(self) -> Iterator[EngineRecord]:
        return iter(sorted(self._engines.values(), key=lambda each: each.id))

    def records(self) -> Iterable[EngineRecord]:
        """All records, in no order."""
        return self._engines.values()

    def __len__(self) -> int:
        return len(self._engines)

    def authorized_keys(self, services: Sequence[str], offers: Sequence[str]) -> str:
        """The keys of `aviseuser` in OpenSSH's format (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
        opens = ",".join(f'permitopen="{name}"' for name in services)
        listens = ",".join(f'permitlisten="{name}"' for name in offers)
        return "".join(
            f"restrict,port-forwarding,{opens},{listens} {each.public_key} {each.id}.{each.generation}\n"
            for each in self
            if each.state == "enrolled"
        )
