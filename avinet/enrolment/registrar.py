"""The node's side of an enrolment: verify the two signatures, decide, and do it in one transaction of the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from twisted.logger import Logger

from avinet.aio import Slots
from avinet.enrolment.challenge import check_nonce
from avinet.enrolment.decision import decide
from avinet.enrolment.pending import FULL_RETRY_S, PendingRequests, rules_in
from avinet.enrolment.records import (
    RULES,
    AuditRecord,
    EngineRecord,
    ImageRecord,
    PendingRecord,
    RulesRecord,
    engine_key,
    image_key,
    let_in_key,
    owner_key,
    pending_key,
    put_audit,
    put_record,
)
from avinet.errors import AvinetError, Forbidden, Invalid, TooLarge, TooMany, Unauthenticated, Unavailable
from avinet.flow.allowance import Allowance
from avinet.rest.route import Request
from avinet.store.interface import Delete, Entry, Put, Snapshot, Store, Transaction, Unchanged
from avinet.trust import keys, signatures
from avinet.trust.domain import Domain
from avinet.trust.signatures import SignedRequest
from avinet.wire.enrolment import REQUEST_LIMIT_BYTES, EnrolmentRequest, Receipt
from avinet.wire.message import decode_signed, encode
from avinet.wire.trust import TrustDocument

_RACES = 20
ALARMS, ALARMS_PER_S = 1, 1 / 60
"""How many alarms of a kind are recorded of one id."""


@dataclass(frozen=True)
class Waits:
    """The request is right, and an operator has to let it in; the first such one came at `since`."""

    id: str
    fingerprint: str
    since: float


class Registrar:
    """Enrols service engines. `document` is the current trust document, `now` the node's clock.

    `reserved` says of a public key that it is for something else, and no service engine's.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        pending: PendingRequests,
        domain: Callable[[], Domain],
        document: Callable[[], TrustDocument],
        now: Callable[[], float],
        reserved: Callable[[str], bool] = lambda key: False,
    ) -> None:
        self._store = store
        self._pending = pending
        self._domain = domain
        self._document = document
        self._now = now
        self._reserved = reserved
        self._alarms = Allowance(now, burst=ALARMS, per_s=ALARMS_PER_S)
        self._unclaimed = Slots(1)
        """Who has no claim is counted in one place: one after the other, nobody has to try again."""

    async def enrol(self, asked: Request) -> tuple[bool, bytes] | Waits:
        """Whether this request enrolled the service engine (or had before), and the receipt's bytes; or that it waits.

        Raises what the table of replies says: `Unauthenticated`, `Forbidden`, `Conflict`, `Gone`, `Unavailable`.
        """
        try:
            request = decode_signed(
                asked.body, EnrolmentRequest, limit_bytes=REQUEST_LIMIT_BYTES, what="enrolment request"
            )
            fingerprint = keys.fingerprint(request.ssh_public_key)
            keys.parse_public_line(request.ssh_host_public_key)
        except (Invalid, TooLarge) as error:
            raise Unauthenticated(str(error)) from error
        places = _places(request, fingerprint)
        snapshot = await self._store.read(places)
        image = snapshot.entries.get(image_key(request.image))
        if image is None:
            raise Forbidden(f"there is no image {request.image} in this domain of trust")
        self._verify(asked, request, fingerprint, msgspec.json.decode(image.value, type=ImageRecord))
        if request.claim is not None:
            return await self._decided(asked, request, fingerprint, snapshot)
        async with self._unclaimed:
            return await self._decided(asked, request, fingerprint, await self._store.read(places))

    async def _decided(
        self, asked: Request, request: EnrolmentRequest, fingerprint: str, snapshot: Snapshot
    ) -> tuple[bool, bytes] | Waits:
        for _ in range(_RACES):
            done = await self._attempt(asked, request, fingerprint, snapshot)
            if done is not None:
                return done
            snapshot = await self._store.read(_places(request, fingerprint))
        raise Unavailable("too many enrolments race for this", retry_after_s=1)

    def _active(self, id: str, entry: Entry | None, now: float) -> None:
        """Raises `Forbidden` unless the image may enrol now."""
        image = msgspec.json.decode(entry.value, type=ImageRecord) if entry is not None else None
        if image is None or image.state != "active" or now > image.not_after:
            raise Forbidden(f"the image {id} is retired or has expired", hint="build a new image")

    def _verify(self, asked: Request, request: EnrolmentRequest, fingerprint: str, image: ImageRecord) -> None:
        """Check both signatures, and what they vouch for. Raises `Unauthenticated`."""
        domain, now = self._domain(), self._now()
        if asked.arguments["id"] != request.id or asked.target != asked.path:
            raise Unauthenticated("the path is not that of the id in the body")
        if asked.authority.partition(":")[0].lower() != domain.name:
            raise Unauthenticated("the request was made for another node")
        own = request.ssh_public_key
        if own in (image.public_key, request.ssh_host_public_key) or self._reserved(own):
            raise Unauthenticated("the service engine has no key of its own")
        message = SignedRequest(asked.method, asked.authority, asked.target, dict(asked.headers))
        expected = (
            (signatures.BY_IMAGE, {image.id: keys.parse_public_line(image.public_key)}.get),
            (signatures.BY_ENGINE, {fingerprint: keys.parse_public_line(own)}.get),
        )
        for verified in signatures.verify_all(message, asked.body, expected, now=now, repeated=asked.repeated):
            if verified.nonce != request.nonce:
                raise Unauthenticated("a signature carries another nonce than the body")
        check_nonce(domain.nonce_key, request.nonce, now)

    async def _attempt(
        self, asked: Request, request: EnrolmentRequest, fingerprint: str, snapshot: Snapshot
    ) -> tuple[bool, bytes] | Waits | None:
        """One transaction on what was read at `_places`; None when another one came between the two."""
        places = place, owner_place, image_place, rules_place, pending_place, let_in_place = _places(
            request, fingerprint
        )
        entry, owner, image_entry, rules_entry, waiting, counted = (snapshot.entries.get(each) for each in places)
        engine = msgspec.json.decode(entry.value, type=EngineRecord) if entry else None
        rules, now = rules_in(rules_entry), self._now()
        verdict = decide(
            request, fingerprint, engine, owner.value.decode("ascii") if owner else None, rules.policy, now
        )
        if verdict.outcome == "again":
            assert engine is not None
            return False, engine.receipt.encode("utf-8")
        self._active(request.image, image_entry, now)
        if verdict.error is not None:
            await self._refused(asked, request, fingerprint, verdict.alarm, verdict.error)
            raise verdict.error
        alone, let_in = verdict.outcome == "enrol" and verdict.by == "image", int(counted.value) if counted else 0
        if alone and let_in >= rules.by_image:
            full = _full(request.image, let_in)
            await self._refused(asked, request, fingerprint, "image-used-up", full, of=request.image)
            raise full
        conditions = tuple(
            Unchanged(each, snapshot.entries[each].revision if each in snapshot.entries else 0)
            for each in (place, owner_place, image_place, rules_place, *((let_in_place,) if alone else ()))
        )
        if verdict.outcome == "wait":
            return await self._wait(asked, request, fingerprint, waiting, rules, conditions)
        if engine is None:
            engine = EngineRecord(id=request.id, state="expected", generation=request.generation, created=now)
        receipt = self._receipt(request, fingerprint, snapshot.revision)
        enrolled = msgspec.structs.replace(
            engine,
            state="enrolled",
            image=request.image,
            claim_sha256="",
            claim_expires=0.0,
            approved="",
            public_key=request.ssh_public_key,
            host_key=request.ssh_host_public_key,
            fingerprint=fingerprint,
            enrolled=now,
            receipt=receipt.decode("utf-8"),
            management_address=request.management_address,
            hostname=request.hostname,
        )
        audit = self._audit(asked, request, fingerprint, "enrolled-by-image" if alone else "enrolled", notice=alone)
        then = (
            put_record(place, enrolled),
            Put(owner_place, request.id.encode("ascii")),
            put_audit(audit),
            *((Delete(pending_place),) if waiting is not None else ()),
            *((Put(let_in_place, b"%d" % (let_in + 1)),) if alone else ()),
        )
        if not (await self._store.transact(Transaction(conditions, then))).succeeded:
            return None
        self.log.info(
            "{id} has enrolled from {peer} with key {fingerprint}{how}",
            id=request.id,
            peer=asked.peer,
            fingerprint=fingerprint,
            how=" by the image key alone" if alone else "",
        )
        return True, receipt

    async def _wait(
        self,
        asked: Request,
        request: EnrolmentRequest,
        fingerprint: str,
        waiting: Entry | None,
        rules: RulesRecord,
        conditions: tuple[Unchanged, ...],
    ) -> Waits | None:
        """Let the request wait for an operator, or go on waiting, which changes nothing.

        Raises `Forbidden` when an operator has refused it, and `TooMany`.
        """
        record = PendingRecord(
            id=request.id,
            generation=request.generation,
            fingerprint=fingerprint,
            image=request.image,
            source=asked.peer,
            since=self._now(),
            hostname=request.hostname,
            management_address=request.management_address,
            version=request.version,
        )
        if waiting is not None:
            before = msgspec.json.decode(waiting.value, type=PendingRecord)
            if record.since <= max(before.since, before.refused) + rules.pending_s:
                if before.refused:
                    raise Forbidden(f"an operator has refused {request.id} with the key {fingerprint}")
                return Waits(request.id, fingerprint, before.since)
        place = Unchanged(pending_key(request.id, fingerprint), waiting.revision if waiting else 0)
        audit = self._audit(asked, request, fingerprint, "waits", notice=True)
        if not await self._pending.add(record, rules, (*conditions, place), audit):
            return None
        self.log.warn(
            "{id} waits for an operator, from {peer}: avictl se approve {id} --fingerprint {fingerprint}",
            id=request.id,
            peer=asked.peer,
            fingerprint=fingerprint,
        )
        return Waits(request.id, fingerprint, record.since)

    def _receipt(self, request: EnrolmentRequest, fingerprint: str, revision: int) -> bytes:
        document = self._document()
        return encode(
            Receipt(
                id=request.id,
                generation=request.generation,
                fingerprint=fingerprint,
                revision=revision,
                request_id=request.request_id,
                domain=document.domain,
                epoch=document.epoch,
                roots=document.roots,
                nodes=document.nodes,
            )
        )

    def _audit(
        self,
        asked: Request,
        request: EnrolmentRequest,
        fingerprint: str,
        outcome: str,
        *,
        notice: bool = False,
        alarm: bool = False,
    ) -> AuditRecord:
        return AuditRecord(
            time=self._now(),
            node=self._domain().node,
            kind="enrolment",
            source=asked.peer,
            id=request.id,
            generation=request.generation,
            image=request.image,
            fingerprint=fingerprint,
            outcome=outcome,
            notice=notice,
            alarm=alarm,
        )

    async def _refused(
        self,
        asked: Request,
        request: EnrolmentRequest,
        fingerprint: str,
        alarm: str,
        error: AvinetError,
        of: str = "",
    ) -> None:
        """Log a refusal; an alarm is also recorded, some at once and one a minute for each kind and id, or for `of`."""
        self.log.warn("enrolment of {id} from {peer} refused: {why}", id=request.id, peer=asked.peer, why=error.what)
        place = f"{alarm} {of or request.id}"
        if not alarm or self._alarms.wait_s(place):
            return
        self._alarms.spend(place)
        record = self._audit(asked, request, fingerprint, alarm, alarm=True)
        await self._store.transact(Transaction((), (put_audit(record),)))


def _places(request: EnrolmentRequest, fingerprint: str) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    """All that an enrolment is decided by, to be read at once."""
    return (
        engine_key(request.id),
        owner_key(fingerprint),
        image_key(request.image),
        RULES,
        pending_key(request.id, fingerprint),
        let_in_key(request.image),
    )


def _full(image: str, let_in: int) -> TooMany:
    return TooMany(
        f"the image {image} has let in {let_in} service engines without a claim, as many as it may",
        hint="raise that with avictl enrolment set --by-image, or build a new image",
        retry_after_s=FULL_RETRY_S,
    )
