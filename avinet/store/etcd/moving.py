"""The state of a domain on its way into etcd, and out of it."""

from __future__ import annotations

from typing import Any

import msgspec

from avinet.errors import Conflict, Invalid
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.messages import (
    DeleteRangeRequest,
    RangeReply,
    RangeRequest,
    RequestOp,
    unchanged_since,
)
from avinet.store.etcd.origin import CHANGED, FORMAT, Origin, OriginKey
from avinet.store.etcd.store import EtcdStore
from avinet.store.interface import Page, end_of


class EtcdPlace:
    """What a domain has below `prefix`; `node` names this process, and `other` the store that is moved from or to."""

    def __init__(self, reactor: Any, gateway: Gateway, prefix: str, node: str, other: str) -> None:
        self._gateway = gateway
        self._prefix = prefix
        self._other = other
        self._key = OriginKey(gateway, prefix)
        self.store = EtcdStore(reactor, gateway, prefix=prefix, node=node)

    async def look(self) -> Origin | None:
        """Where the state of the domain is, as etcd has it. Raises `LocalError` for a newer format."""
        origin, _ = await self._key.look()
        if origin is not None and origin.format > FORMAT:
            origin.check()
        return origin

    # On its way in

    async def check_free(self) -> int:
        """etcd's revision of the last change of the origin.

        Raises `Conflict` where etcd has state of this domain that is of use to anybody.
        """
        origin, at = await self._key.look()
        if origin is not None and origin.format > FORMAT:
            origin.check()
        if origin is None:
            if await self._count():
                raise Conflict(
                    f"etcd holds keys below {self._prefix}/ that are of no store of avinet's",
                    hint="set another store.prefix",
                )
        elif origin.state == "used":
            raise Conflict(
                f"etcd holds the state of this domain already, in use below {self._prefix}/",
                hint='set engine = "etcd"; or, if that is to be lost, etcdctl del --prefix '
                f"{self._prefix}/ and migrate again",
            )
        elif origin.other != self._other:
            raise Conflict(
                f"etcd holds the state of this domain from a migration from or to {origin.other}, "
                f"and this would be one from {self._other}",
                hint="migrate on the node that it was begun on",
            )
        return at

    async def _count(self) -> int:
        place = f"{self._prefix}/".encode()
        whole = RangeRequest(key=place, range_end=end_of(place), count_only=True)
        return (await self._gateway.ask("/v3/kv/range", whole, RangeReply)).count

    async def begin(self, revision: int) -> None:
        """Make room, for state whose revisions go on above `revision`. Raises `Conflict` as `check_free`.

        Nothing is written from then on that this has not begun: what a migration that was cut off has sent may still
        be on its way.
        """
        at = await self.check_free()
        origin = Origin(format=FORMAT, revision=revision, state="arriving", other=self._other)
        places = [f"{self._prefix}/{each}/".encode() for each in ("data", "marker")]
        removed = [DeleteRangeRequest(key=place, range_end=end_of(place)) for place in places]
        # With the origin, which is put once: a removal that comes late must not be done to what was copied since.
        await self._key.change(at, origin, then=[RequestOp(request_delete_range=each) for each in removed])
        self.store.open_at(origin, await self._key.unchanged(origin))

    async def arrived(self) -> None:
        """All of it is here: a node may begin to use it, unless it has it still in the other store."""
        await self._change("arriving", "arrived")

    async def use(self) -> None:
        """The other store is none any more: this one is."""
        await self._change("arrived", "used", "")

    # On its way out

    async def open(self) -> int:
        """Get ready to read; the revision that the domain is at. Raises `LocalError` where its state is not here."""
        origin = await self.look()
        if origin is None:
            raise Invalid(f"etcd has nothing of this domain below {self._prefix}/")
        origin.check()
        self.store.open_at(origin)
        return await self.revision()

    async def revision(self) -> int:
        """The revision that the domain is at."""
        return (await self.store.read([])).revision

    def is_ours(self, origin: Origin) -> bool:
        """Whether the state came from the other store of this place, or went there."""
        return origin.other == self._other

    async def leave(self, revision: int) -> None:
        """All of it as of `revision` is in the other store: no node uses this one from now on.

        Raises `Conflict` where a node has written since then: each of its transactions writes a marker.
        """
        origin, at = await self._key.look()
        assert origin is not None
        origin.check()
        place = f"{self._prefix}/marker/".encode()
        left = msgspec.structs.replace(origin, state="left", other=self._other)
        since = unchanged_since(place, end_of(place), origin.etcd(revision))
        await self._key.change(at, left, since, why="a node has written to etcd meanwhile, and uses it still")

    async def _change(self, before: str, state: str, other: str | None = None) -> None:
        origin, at = await self._key.look()
        if origin is None or origin.state != before:
            raise Conflict(CHANGED)
        wanted = msgspec.structs.replace(origin, state=state, other=self._other if other is None else other)
        await self._key.change(at, wanted)


class AsOf:
    """What `store` held at `revision`, as a source. Raises `Compacted` once that is forgotten."""

    def __init__(self, store: EtcdStore, revision: int) -> None:
        self._store = store
        self._revision = revision

    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        """See `Store.range`."""
        return await self._store.range_at(self._revision, prefix, limit=limit, after=after)
