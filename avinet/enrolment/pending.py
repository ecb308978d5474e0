"""Requests that wait for an operator: by id and fingerprint, capped, approved or refused; and the domain's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from avinet.enrolment.records import (
    PENDING,
    RULES,
    AuditRecord,
    EngineRecord,
    ImageRecord,
    PendingRecord,
    RulesRecord,
    engine_key,
    image_key,
    owner_key,
    pending_key,
    put_audit,
    put_record,
)
from avinet.errors import Conflict, NotFound, TooMany, Unavailable
from avinet.flow.allowance import source_of
from avinet.store.interface import OPERATIONS, Delete, Entry, Put, Store, Transaction, Unchanged
from avinet.wire.fleet import RulesChange

_RACES = 10
_SWEPT = OPERATIONS // 2
_STAMP = b"pending"
"""Written with each request that begins to wait, so that two of them never see the same room for one."""
FULL_RETRY_S = 60.0


def rules_in(entry: Entry | None) -> RulesRecord:
    """The rules as they are stored; those of a new domain when they never were."""
    return msgspec.json.decode(entry.value, type=RulesRecord) if entry is not None else RulesRecord()


class PendingRequests:
    """What waits, and what operators of the node `node` do about it."""

    def __init__(self, store: Store, node: str, now: Callable[[], float]) -> None:
        self._store = store
        self._node = node
        self._now = now

    # the rules

    async def rules(self) -> RulesRecord:
        """The rules of the domain."""
        return rules_in((await self._store.read([RULES])).entries.get(RULES))

    async def change_rules(self, change: RulesChange, actor: str) -> RulesRecord:
        """Change the rules of the domain, for all its nodes at once."""
        wanted = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        for _ in range(_RACES):
            entry = (await self._store.read([RULES])).entries.get(RULES)
            old = rules_in(entry)
            new = msgspec.structs.replace(old, **wanted)
            if new == old:
                return old
            shown = ", ".join(f"{name} {value}" for name, value in wanted.items())
            audit = AuditRecord(
                time=self._now(), node=self._node, kind="enrolment-rules", source=actor, outcome=shown, notice=True
            )
            condition = Unchanged(RULES, entry.revision if entry else 0)
            if await self._done((condition,), (put_record(RULES, new), put_audit(audit))):
                return new
        raise Unavailable("the rules of enrolment change too often")

    # what waits

    async def all(self) -> list[PendingRecord]:
        """All that wait or were refused, and are not over yet, in the order of their ids."""
        rules = await self.rules()
        return [record for record, over in await self._found(rules) if not over]

    async def _found(self, rules: RulesRecord) -> list[tuple[PendingRecord, bool]]:
        """All records, with whether their time is over."""
        page = await self._store.range(PENDING, limit=2000)
        records = [msgspec.json.decode(entry.value, type=PendingRecord) for entry in page.entries]
        return [(each, self._over(each, rules)) for each in records]

    async def add(
        self, record: PendingRecord, rules: RulesRecord, conditions: Sequence[Unchanged], audit: AuditRecord
    ) -> bool:
        """Let `record` wait, while `conditions` hold; False when they do not, or another came first.

        Raises `TooMany` when too many wait already, in all or from this source.
        """
        stamp = (await self._store.read([_STAMP])).entries.get(_STAMP)
        found = await self._found(rules)
        live = [each for each, over in found if not (over or each.refused)]
        if len(live) >= rules.pending:
            raise TooMany("too many service engines wait for an operator", retry_after_s=FULL_RETRY_S)
        source = source_of(record.source)
        if sum(source_of(each.source) == source for each in live) >= rules.pending_from_one:
            raise TooMany(f"too many service engines wait at {source}", retry_after_s=FULL_RETRY_S)
        place = pending_key(record.id, record.fingerprint)
        gone = [pending_key(each.id, each.fingerprint) for each, over in found if over]
        return await self._done(
            (*conditions, Unchanged(_STAMP, stamp.revision if stamp else 0)),
            (
                put_record(place, record),
                Put(_STAMP, b""),
                put_audit(audit),
                *(Delete(each) for each in gone[:_SWEPT] if each != place),
            ),
        )

    async def approve(self, id: str, fingerprint: str, actor: str, labels: Mapping[str, str]) -> EngineRecord:
        """Expect the service engine with this key as `id`, without a claim; whoever else waited to be it does no more.

        Raises `NotFound`, and `Conflict` when the id, the key or the image stands in the way.
        """
        for _ in range(_RACES):
            place, mine = engine_key(id), pending_key(id, fingerprint)
            snapshot = await self._store.read([place, mine, owner_key(fingerprint)])
            entry = snapshot.entries.get(place)
            waiting = await self._waiting(snapshot.entries.get(mine), id, fingerprint)
            old = msgspec.json.decode(entry.value, type=EngineRecord) if entry else None
            if owner_key(fingerprint) in snapshot.entries:
                raise Conflict("this key belongs to another service engine")
            await self._check_image(waiting.image)
            record = self._expected(old, waiting, labels)
            others = (await self._store.range(pending_key(id), limit=_SWEPT)).entries
            done = await self._done(
                (Unchanged(place, entry.revision if entry else 0), Unchanged(mine, snapshot.entries[mine].revision)),
                (
                    put_record(place, record),
                    put_audit(self._audit("approve", actor, waiting, "expected")),
                    *(Delete(each.key) for each in others),
                ),
            )
            if done:
                return record
        raise Unavailable(f"too many changes of {id} race with this one")

    def _expected(self, old: EngineRecord | None, waiting: PendingRecord, labels: Mapping[str, str]) -> EngineRecord:
        """The record of a service engine that was let in by its fingerprint. Raises `Conflict`."""
        id = waiting.id
        if old is None:
            old = EngineRecord(id=id, state="expected", generation=waiting.generation, created=self._now())
        elif old.state != "expected" or old.generation != waiting.generation:
            raise Conflict(f"service engine {id} is {old.state} in generation {old.generation}")
        elif self._now() <= old.claim_expires:
            raise Conflict(
                f"{id} has an open claim, and only that lets it in",
                hint="boot it with the claim, wait until that has expired, or delete it first",
            )
        return msgspec.structs.replace(
            old,
            approved=waiting.fingerprint,
            claim_sha256="",
            claim_expires=0.0,
            labels=dict(sorted((old.labels | dict(labels)).items())),
        )

    async def _check_image(self, id: str) -> None:
        entry = (await self._store.read([image_key(id)])).entries.get(image_key(id))
        image = msgspec.json.decode(entry.value, type=ImageRecord) if entry else None
        if image is None or image.state != "active" or self._now() > image.not_after:
            raise Conflict(f"the image {id} that it was booted from is retired or has expired")

    async def refuse(self, id: str, fingerprint: str, actor: str) -> PendingRecord:
        """Keep the service engine with this key out for as long as it might have waited. Raises `NotFound`."""
        for _ in range(_RACES):
            place = pending_key(id, fingerprint)
            entry = (await self._store.read([place])).entries.get(place)
            record = msgspec.structs.replace(await self._waiting(entry, id, fingerprint), refused=self._now())
            assert entry is not None
            audit = put_audit(self._audit("refuse", actor, record, "refused"))
            if await self._done((Unchanged(place, entry.revision),), (put_record(place, record), audit)):
                return record
        raise Unavailable(f"too many changes of {id} race with this one")

    async def drop(self, image: str, actor: str) -> None:
        """Forget all that wait with an image that was retired."""
        for _ in range(_RACES * _RACES):
            found = [each for each, _ in await self._found(await self.rules()) if each.image == image][:_SWEPT]
            if not found:
                return
            audit = AuditRecord(
                time=self._now(),
                node=self._node,
                kind="pending-drop",
                source=actor,
                image=image,
                outcome=f"{len(found)} requests forgotten",
            )
            deletes = (Delete(pending_key(each.id, each.fingerprint)) for each in found)
            await self._done((), (put_audit(audit), *deletes))

    async def _waiting(self, entry: Entry | None, id: str, fingerprint: str) -> PendingRecord:
        record = msgspec.json.decode(entry.value, type=PendingRecord) if entry is not None else None
        if record is None or self._over(record, await self.rules()):
            raise NotFound(
                f"no service engine with the key {fingerprint} waits to be {id}", hint="see avictl se pending"
            )
        return record

    def _over(self, record: PendingRecord, rules: RulesRecord) -> bool:
        """Whether it has waited for as long as it may, or was refused so long ago."""
        return self._now() > max(record.since, record.refused) + rules.pending_s

    def _audit(self, kind: str, actor: str, record: PendingRecord, outcome: str) -> AuditRecord:
        return AuditRecord(
            time=self._now(),
            node=self._node,
            kind=kind,
            source=actor,
            id=record.id,
            generation=record.generation,
            image=record.image,
            fingerprint=record.fingerprint,
            outcome=outcome,
        )

    async def _done(self, conditions: Sequence[Unchanged], then: Sequence[Put | Delete]) -> bool:
        return (await self._store.transact(Transaction(tuple(conditions), tuple(then)))).succeeded
