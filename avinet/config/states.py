"""What each service engine said it runs: in memory at once, in the store a moment later, many in one transaction.

`config/state/ID` survives the node's restart, so that a fleet that comes back is not pushed what it runs already. What
is lost in between does no harm: the next hello says it again.
"""

from __future__ import annotations

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks, pause
from avinet.errors import AvinetError
from avinet.store.interface import OPERATIONS, Delete, Put, Store, Transaction
from avinet.wire.config import REASON_CHARS, ConfigState, ConfigVersion
from avinet.wire.message import encode

STATES = b"config/state/"


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last word of a service engine, and the boot in which it said it."""

    boot: str = ""
    state: ConfigState = ConfigState()


_NOTHING = Said()


class States:
    """The states by service engine. They are written every `batch_s` seconds, where they have changed."""

    log = Logger()

    def __init__(self, clock: IReactorTime, store: Store, *, batch_s: float = 5.0) -> None:
        self._clock = clock
        self._store = store
        self._batch_s = batch_s
        self._said: dict[str, Said] = {}
        self._unsaved: set[str] = set()
        self._tasks = Tasks()

    async def start(self) -> None:
        """Read what was remembered, and begin to write what changes."""
        after, more = b"", True
        while more:
            page = await self._store.range(STATES, after=after)
            for entry in page.entries:
                after = entry.key
                try:
                    said = msgspec.json.decode(entry.value, type=Said)
                except msgspec.ValidationError as error:
                    self.log.warn("{key} in the store cannot be read: {reason}", key=after.decode(), reason=str(error))
                else:
                    self._said[after.removeprefix(STATES).decode()] = said
            more = page.more
        self._tasks.spawn(self._write_now_and_then(), "writing what service engines said")

    async def stop(self) -> None:
        """Write what is unsaved, and end."""
        self._tasks.stop()
        await self.save()

    def get(self, id: str) -> ConfigState:
        """What a service engine said, as far as is known."""
        return self._said.get(id, _NOTHING).state

    def said(self, id: str, state: ConfigState, boot: str) -> None:
        """A service engine told its state, in a hello or a report.

        A refusal that this node was answered stands until the service engine boots anew, also where the service engine
        has no memory of it.
        """
        known = self._said.get(id, _NOTHING)
        if known.boot == boot and state.refused is None and known.state.refused is not None:
            state = msgspec.structs.replace(state, refused=known.state.refused, reason=known.state.reason)
        if state.refused is not None and state.refused == state.applied:
            state = msgspec.structs.replace(state, refused=None, reason="")
        self._set(id, Said(boot=boot, state=state))

    def answered(self, id: str, state: ConfigState) -> None:
        """A service engine answered a push with its state."""
        self._set(id, Said(boot=self._said.get(id, _NOTHING).boot, state=state))

    def refused(self, id: str, version: ConfigVersion, reason: str) -> None:
        """A service engine refused `version`."""
        known = self._said.get(id, _NOTHING)
        state = msgspec.structs.replace(known.state, refused=version, reason=reason[:REASON_CHARS])
        self._set(id, Said(boot=known.boot, state=state))

    def forget(self, id: str) -> None:
        """The service engine is gone, or begins anew with another key."""
        if self._said.pop(id, None) is not None:
            self._unsaved.add(id)

    def _set(self, id: str, said: Said) -> None:
        if self._said.get(id) != said:
            self._said[id] = said
            self._unsaved.add(id)

    async def save(self) -> None:
        """Write what has changed. What could not be written stays unsaved; raises as `Store.transact`."""
        while self._unsaved:
            ids = sorted(self._unsaved)[:OPERATIONS]
            self._unsaved.difference_update(ids)
            try:
                await self._store.transact(Transaction((), tuple(self._operation(id) for id in ids)))
            except BaseException:
                self._unsaved.update(ids)
                raise

    def _operation(self, id: str) -> Put | Delete:
        key = STATES + id.encode("ascii")
        said = self._said.get(id)
        return Delete(key) if said is None else Put(key, encode(said))

    async def _write_now_and_then(self) -> None:
        while True:
            await pause(self._clock, self._batch_s)
            try:
                await self.save()
            except AvinetError as error:
                self.log.warn("what service engines said could not be written yet: {reason}", reason=str(error))
