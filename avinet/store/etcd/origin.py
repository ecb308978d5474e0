"""Where the revisions of a domain begin: where those of another store have ended, whatever etcd's own are.

And whether its state is here at all: it may be on its way from another store, or gone to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from avinet.errors import Conflict, LocalError
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.messages import (
    Compare,
    KeyValue,
    PutRequest,
    RangeReply,
    RangeRequest,
    RequestOp,
    TxnReply,
    TxnRequest,
    last_changed,
)
from avinet.store.interface import Entry

FORMAT = 1
CHANGED = "another process has changed where the state of this domain is"
_NEVER = -1
"""No key was changed at this revision."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of it: `revision` added to one of etcd's makes one of the domain.

    While the state is not used here: it is `arriving` from the `other` store, has `arrived` as a whole, or has `left`
    for that one.
    """

    format: int
    revision: int
    state: Literal["used", "arriving", "arrived", "left"] = "used"
    other: str = ""

    def check(self) -> None:
        """Refuse what cannot be used. Raises `LocalError`."""
        if self.format > FORMAT:
            raise LocalError(
                f"the store in etcd has format {self.format}, and this version of avinet knows {FORMAT}",
                hint="use the newer version that wrote it",
            )
        if self.state == "left":
            raise LocalError(
                f"the state of this domain has left etcd for {self.other}", hint='set engine = "sqlite" under [store]'
            )
        if self.state == "arriving":
            raise LocalError(
                f"etcd has a part only of the state of this domain, of a migration from {self.other} that was cut off",
                hint="run avictl store migrate --to etcd again",
            )

    def of(self, revision: int) -> int:
        """etcd's revision as one of the domain."""
        return revision + self.revision

    def etcd(self, revision: int) -> int:
        """A revision of the domain as etcd's; 0 for all from before this store."""
        return max(0, revision - self.revision)

    def condition(self, revision: int) -> int:
        """The revision of a condition as etcd's: 0 stays 0, and one from before this store is none that a key has."""
        return 0 if revision == 0 else self.etcd(revision) or _NEVER

    def entry(self, found: KeyValue, place: bytes) -> Entry:
        """A key as it is, without the `place` that it is below."""
        return Entry(
            found.key.removeprefix(place),
            found.value,
            self.of(found.mod_revision),
            self.of(found.create_revision),
            found.lease,
        )


class OriginKey:
    """The key that the origin of the domain below `prefix` is under."""

    def __init__(self, gateway: Gateway, prefix: str) -> None:
        self._gateway = gateway
        self._key = f"{prefix}/origin".encode()

    async def look(self) -> tuple[Origin | None, int]:
        """The origin, and etcd's revision of its last change; None and 0 where there is none."""
        reply = await self._gateway.ask("/v3/kv/range", RangeRequest(key=self._key), RangeReply)
        if not reply.kvs:
            return None, 0
        [found] = reply.kvs
        try:
            return msgspec.json.decode(found.value, type=Origin), found.mod_revision
        except msgspec.DecodeError as error:
            key = self._key.decode()
            raise LocalError(f"{key} in etcd is none of avinet's: {error}", hint="name another prefix") from error

    async def unchanged(self, origin: Origin) -> Compare:
        """The condition that `origin`, which was just put, is the last one. Raises `Conflict` where it is not."""
        found, at = await self.look()
        if found != origin:
            raise Conflict(CHANGED)
        return last_changed(self._key, at)

    async def change(
        self,
        before: int,
        origin: Origin,
        *conditions: Compare,
        then: Sequence[RequestOp] = (),
        why: str = CHANGED,
    ) -> None:
        """Put `origin` where the last change was `before`, under more `conditions`, and do more with it.

        Raises `Conflict`, saying `why`, where they do not hold, or another one was put meanwhile.
        """
        put = RequestOp(request_put=PutRequest(key=self._key, value=msgspec.json.encode(origin)))
        request = TxnRequest(compare=[last_changed(self._key, before), *conditions], success=[put, *then])
        reply = await self._gateway.ask("/v3/kv/txn", request, TxnReply)
        if not reply.succeeded and (await self.look())[0] != origin:  # else an attempt before this one was done
            raise Conflict(why)
