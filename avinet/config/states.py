"""What each service engine said it runs.

`config/state/ID` survives the node's restart, so that a fleet that comes back is not pushed what it runs already. What
is lost in between does no harm: the next hello says it again.
"""

from __future__ import annotations

import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.store.interface import Store
from avinet.store.remembered import Remembered
from avinet.wire.config import REASON_CHARS, ConfigState, ConfigVersion

STATES = b"config/state/"


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last word of a service engine, and the boot in which it said it."""

    boot: str = ""
    state: ConfigState = ConfigState()


_NOTHING = Said()


class States:
    """The states by service engine. They are written every `batch_s` seconds, where they have changed."""

    def __init__(self, clock: IReactorTime, store: Store, *, batch_s: float = 5.0) -> None:
        self._said = Remembered(clock, store, STATES, Said, batch_s=batch_s)

    async def start(self) -> None:
        """Read what was remembered, and begin to write what changes."""
        await self._said.start()

    async def stop(self) -> None:
        """Write what is unsaved, and end."""
        await self._said.stop()

    async def save(self) -> None:
        """Write what has changed; see `Remembered`."""
        await self._said.save()

    def _known(self, id: str) -> Said:
        return self._said.get(id) or _NOTHING

    def get(self, id: str) -> ConfigState:
        """What a service engine said, as far as is known."""
        return self._known(id).state

    def said(self, id: str, state: ConfigState, boot: str) -> None:
        """A service engine told its state, in a hello or a report.

        A refusal that this node was answered stands until the service engine boots anew, also where the service engine
        has no memory of it.
        """
        known = self._known(id)
        if known.boot == boot and state.refused is None and known.state.refused is not None:
            state = msgspec.structs.replace(state, refused=known.state.refused, reason=known.state.reason)
        if state.refused is not None and state.refused == state.applied:
            state = msgspec.structs.replace(state, refused=None, reason="")
        self._said.set(id, Said(boot=boot, state=state))

    def answered(self, id: str, state: ConfigState) -> None:
        """A service engine answered a push with its state."""
        self._said.set(id, Said(boot=self._known(id).boot, state=state))

    def refused(self, id: str, version: ConfigVersion, reason: str) -> None:
        """A service engine refused `version`."""
        known = self._known(id)
        state = msgspec.structs.replace(known.state, refused=version, reason=reason[:REASON_CHARS])
        self._said.set(id, Said(boot=known.boot, state=state))

    def forget(self, id: str) -> None:
        """The service engine is gone, or begins anew with another key."""
        self._said.forget(id)
