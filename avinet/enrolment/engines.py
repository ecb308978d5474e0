"""What operators do with service engines: expect, label, reset, revoke, forget; each a transaction with its record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

import msgspec

from avinet.enrolment.decision import claim_digest
from avinet.enrolment.records import (
    IMAGES,
    LET_IN,
    RATCHETS,
    AuditRecord,
    EngineRecord,
    ImageRecord,
    engine_key,
    image_key,
    owner_key,
    put_audit,
    put_record,
    ratchet_key,
    with_former,
)
from avinet.errors import Conflict, NotFound, Unavailable
from avinet.store.entries import entries
from avinet.store.interface import OPERATIONS, Delete, Put, Store, Transaction, Unchanged
from avinet.trust import keys
from avinet.wire.fleet import Claimed

_RACES = 10


class Engines:
    """The operators' side of the records of service engines and images, on the node `node`."""

    def __init__(self, store: Store, node: str, now: Callable[[], float]) -> None:
        self._store = store
        self._node = node
        self._now = now

    async def expect(
        self, ids: Sequence[str], actor: str, *, labels: Mapping[str, str], driver: str, claim_s: float
    ) -> list[Claimed]:
        """Expect new service engines of these ids. Raises `Conflict`; those before it are expected then."""
        return [await self._expect(id, actor, dict(labels), driver, claim_s) for id in ids]

    async def _expect(self, id: str, actor: str, labels: dict[str, str], driver: str, claim_s: float) -> Claimed:
        claim, now = secrets.token_urlsafe(24), self._now()
        record = EngineRecord(
            id=id,
            state="expected",
            generation=1,
            created=now,
            labels=labels,
            driver=driver,
            claim_sha256=claim_digest(claim),
            claim_expires=now + claim_s,
        )
        audit = put_audit(self._audit("expect", actor, record))
        outcome = await self._store.transact(
            Transaction((Unchanged(engine_key(id), 0),), (put_record(engine_key(id), record), audit))
        )
        if not outcome.succeeded:
            raise Conflict(
                f"there is a service engine {id} already", hint="choose another id, or delete that one first"
            )
        return Claimed(id=id, generation=1, expires=record.claim_expires, claim=claim)

    async def claim_anew(self, id: str, claim_s: float) -> Claimed:
        """Give a service engine that is still expected another claim; the one before opens nothing any more.

        Raises `Conflict` when it is expected no longer.
        """
        claim, expires = secrets.token_urlsafe(24), self._now() + claim_s

        def change(old: EngineRecord) -> EngineRecord:
            if old.state != "expected":
                raise Conflict(f"service engine {id} is {old.state}, not expected")
            return msgspec.structs.replace(old, claim_sha256=claim_digest(claim), claim_expires=expires, approved="")

        record = await self._change(id, "claim", self._node, change)
        return Claimed(id=id, generation=record.generation, expires=expires, claim=claim)

    async def reset(self, id: str, actor: str, claim_s: float) -> Claimed:
        """Expect a service engine anew, in its next generation: from now on its key opens nothing any more.

        Id, labels and driver stay. Raises `NotFound`.
        """
        claim, now = secrets.token_urlsafe(24), self._now()

        def change(old: EngineRecord) -> EngineRecord:
            return EngineRecord(
                id=old.id,
                state="expected",
                generation=old.generation + 1,
                created=old.created,
                labels=old.labels,
                driver=old.driver,
                former=old.former,
                claim_sha256=claim_digest(claim),
                claim_expires=now + claim_s,
            )

        record = await self._change(id, "reset", actor, change)
        return Claimed(id=id, generation=record.generation, expires=record.claim_expires, claim=claim)

    async def readmit(self, ids: Sequence[str], actor: str) -> int:
        """Take service engines as they come next, whatever their last secret was; without ids all of them.

        Returns how many there were to be forgiven anything.
        """
        if not ids:
            found = [entry.key async for entry in entries(self._store, RATCHETS)]
        else:
            keys = [ratchet_key(each) for each in ids]
            found = [key for key in keys if key in (await self._store.read([key])).entries]
        for at in range(0, len(found), OPERATIONS - 1):
            some = found[at : at + OPERATIONS - 1]
            audit = AuditRecord(
                time=self._now(),
                node=self._node,
                kind="readmit",
                source=actor,
                id=some[0].removeprefix(RATCHETS).decode("ascii") if len(some) == 1 else "",
                outcome=f"{len(some)} service engines",
                notice=True,
            )
            await self._store.transact(Transaction((), (put_audit(audit), *map(Delete, some))))
        return len(found)

    async def label(self, id: str, actor: str, set: Mapping[str, str], remove: Sequence[str]) -> EngineRecord:
        """Change the labels of a service engine."""

        def change(old: EngineRecord) -> EngineRecord:
            kept = {key: value for key, value in old.labels.items() if key not in remove}
            return msgspec.structs.replace(old, labels=dict(sorted((kept | dict(set)).items())))

        return await self._change(id, "label", actor, change)

    async def revoke(self, id: str, actor: str) -> EngineRecord:
        """Let the key of a service engine open nothing any more; its id stays taken."""

        def change(old: EngineRecord) -> EngineRecord:
            return msgspec.structs.replace(old, state="revoked", claim_sha256="", claim_expires=0.0)

        return await self._change(id, "revoke", actor, change)

    async def forget(self, id: str, actor: str) -> None:
        """Remove a service engine and the mark that its key was used; the audit log keeps what was."""
        for _ in range(_RACES):
            entry = (await self._store.read([engine_key(id)])).entries.get(engine_key(id))
            if entry is None:
                raise NotFound(f"there is no service engine {id}")
            record = msgspec.json.decode(entry.value, type=EngineRecord)
            then: list[Put | Delete] = [
                Delete(engine_key(id)),
                Delete(ratchet_key(id)),
                put_audit(self._audit("delete", actor, record)),
                *(Delete(owner_key(keys.fingerprint(each))) for each in record.former),
            ]
            if record.fingerprint:
                then.append(Delete(owner_key(record.fingerprint)))
            done = await self._store.transact(Transaction((Unchanged(engine_key(id), entry.revision),), tuple(then)))
            if done.succeeded:
                return
        raise Unavailable(f"too many changes of {id} race with this one")

    async def _change(
        self, id: str, kind: str, actor: str, change: Callable[[EngineRecord], EngineRecord]
    ) -> EngineRecord:
        for _ in range(_RACES):
            entry = (await self._store.read([engine_key(id)])).entries.get(engine_key(id))
            if entry is None:
                raise NotFound(f"there is no service engine {id}")
            old = msgspec.json.decode(entry.value, type=EngineRecord)
            record = change(old)
            if record == old:
                return old
            then: list[Put | Delete] = [put_audit(self._audit(kind, actor, record))]
            if old.fingerprint and old.fingerprint != record.fingerprint:  # the mark of the old key stays
                record, gone = with_former(record, old.public_key)
                then += [*gone, Delete(ratchet_key(id))]
            then.append(put_record(engine_key(id), record))
            done = await self._store.transact(Transaction((Unchanged(engine_key(id), entry.revision),), tuple(then)))
            if done.succeeded:
                return record
        raise Unavailable(f"too many changes of {id} race with this one")

    def _audit(self, kind: str, actor: str, record: EngineRecord) -> AuditRecord:
        return AuditRecord(
            time=self._now(),
            node=self._node,
            kind=kind,
            source=actor,
            id=record.id,
            generation=record.generation,
            image=record.image,
            fingerprint=record.fingerprint,
            outcome=record.state,
        )

    async def alarm(self, kind: str, id: str, source: str) -> None:
        """Record something about a service engine that an operator should see."""
        record = AuditRecord(time=self._now(), node=self._node, kind=kind, source=source, id=id, alarm=True)
        await self._store.transact(Transaction((), (put_audit(record),)))

    async def images(self) -> list[ImageRecord]:
        """All image keys."""
        page = await self._store.range(IMAGES)
        return [msgspec.json.decode(entry.value, type=ImageRecord) for entry in page.entries]

    async def let_in(self) -> dict[str, int]:
        """How many service engines each image key has let in alone; without those that have let in none."""
        page = await self._store.range(LET_IN)
        return {entry.key.removeprefix(LET_IN).decode("ascii"): int(entry.value) for entry in page.entries}

    async def add_image(self, record: ImageRecord, actor: str) -> None:
        """Let an image key enrol. Raises `Conflict` when the id is taken by another key."""
        place = image_key(record.id)
        audit = AuditRecord(time=self._now(), node=self._node, kind="image-add", source=actor, image=record.id)
        done = await self._store.transact(
            Transaction((Unchanged(place, 0),), (put_record(place, record), put_audit(audit)))
        )
        if not done.succeeded:
            entry = (await self._store.read([place])).entries.get(place)
            if entry is None or msgspec.json.decode(entry.value, type=ImageRecord).public_key != record.public_key:
                raise Conflict(f"there is an image {record.id} already")

    async def retire_image(self, id: str, actor: str) -> ImageRecord:
        """Let an image key enrol nothing any more."""
        place = image_key(id)
        for _ in range(_RACES):
            entry = (await self._store.read([place])).entries.get(place)
            if entry is None:
                raise NotFound(f"there is no image {id}")
            record = msgspec.structs.replace(msgspec.json.decode(entry.value, type=ImageRecord), state="retired")
            audit = AuditRecord(time=self._now(), node=self._node, kind="image-retire", source=actor, image=id)
            done = await self._store.transact(
                Transaction((Unchanged(place, entry.revision),), (put_record(place, record), put_audit(audit)))
            )
            if done.succeeded:
                return record
        raise Unavailable(f"too many changes of {id} race with this one")
