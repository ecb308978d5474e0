"""What expires on a node and in its domain: shown as long as it is so, and recorded once for each degree of urgency.

`expiry/KIND/NAME` says how urgent the last record said that it is, of which certificate: no restart repeats a record,
and of several nodes one writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import CANCELLED, pause, within
from avinet.controller.certificates.vault import Vault
from avinet.enrolment.records import AuditRecord, Record, put_audit, put_record
from avinet.errors import AvinetError, TimedOut
from avinet.store.entries import entries
from avinet.store.interface import Delete, Entry, Store, Transaction, Unchanged
from avinet.trust.domain import Domain
from avinet.trust.image import fingerprint
from avinet.units import format_seconds
from avinet.wire.expiry import Expiry, ExpiryKind, Urgency

TOLD = b"expiry/"
CHECK_S = 3600.0
GATHER_S = 1.0
"""How long is waited for more changes before it is looked again."""
SHOWN = 100
"""How many certificates are shown that expire; the first to do so."""
_DAY_S = 86400.0


@dataclass(frozen=True)
class Early:
    """How long before its end something is to be seen to `soon`, and how long before that is `urgent`; in seconds."""

    soon_s: float
    urgent_s: float

    def urgency(self, left_s: float) -> Urgency:
        """How urgent it is when it is valid for `left_s` more."""
        if left_s <= 0:
            return "expired"
        return "urgent" if left_s < self.urgent_s else "soon" if left_s < self.soon_s else "none"


EARLY: Mapping[ExpiryKind, Early] = {
    "certificate": Early(30 * _DAY_S, 7 * _DAY_S),
    # It lives for 7 days and is renewed after a third of them: one that has a day left is not renewed.
    "node-certificate": Early(_DAY_S, _DAY_S),
    # Another one has to reach machines that sleep for months.
    "issuing-ca": Early(90 * _DAY_S, 30 * _DAY_S),
    "root-ca": Early(365 * _DAY_S, 90 * _DAY_S),
}
_DEGREES: tuple[Urgency, ...] = ("none", "soon", "urgent", "expired")


@dataclass(frozen=True)
class Ending:
    """Something that is valid until `until`; `fingerprint` tells it from what comes after it."""

    kind: ExpiryKind
    name: str
    until: float
    fingerprint: str


def endings(domain: Domain, vault: Vault) -> Iterator[Ending]:
    """What a node lives by, and the certificates that it keeps."""
    own: tuple[tuple[ExpiryKind, str, x509.Certificate], ...] = (
        ("node-certificate", domain.node, domain.server.certificate),
        ("issuing-ca", "", domain.issuing.certificate),
        ("root-ca", "", domain.root),
    )
    for kind, name, found in own:
        digest = fingerprint(found)
        yield Ending(kind, name or digest[:16], found.not_valid_after_utc.timestamp(), digest)
    for name in vault:
        if (kept := vault.get(name)) is not None:
            yield Ending("certificate", name, kept.not_after, kept.fingerprint)


class ToldRecord(Record, frozen=True, kw_only=True):
    """What was recorded last."""

    fingerprint: str
    urgency: Urgency


class Expiries:
    """Looks after `endings`, on the node `node`; `early` says when each kind is urgent, `now` is the time of day."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        node: str,
        endings: Callable[[], Iterable[Ending]],
        now: Callable[[], float],
        early: Mapping[ExpiryKind, Early] = EARLY,
    ) -> None:
        self._clock = clock
        self._store = store
        self._node = node
        self._endings = endings
        self._now = now
        self._early = early
        self._woken: Deferred[None] | None = None
        self._again = False

    def _urgency(self, ending: Ending) -> Urgency:
        return self._early[ending.kind].urgency(ending.until - self._now())

    def shown(self) -> list[Expiry]:
        """What the node itself and its domain live by, and the certificates that expire, the first of them first."""
        found = [
            Expiry(kind=each.kind, name=each.name, not_after=each.until, urgency=self._urgency(each))
            for each in self._endings()
        ]
        certificates = [each for each in found if each.kind == "certificate" and each.urgency != "none"]
        certificates.sort(key=lambda each: (each.not_after, each.name))
        return [*(each for each in found if each.kind != "certificate"), *certificates[:SHOWN]]

    def wake(self) -> None:
        """Something has changed."""
        self._again = True
        if self._woken is not None and not self._woken.called:
            self._woken.callback(None)

    async def keep(self) -> None:
        """Look each hour and after each change, for ever."""
        while True:
            self._again = False
            try:
                await self.check()
            except AvinetError as error:
                self.log.warn("what expires could not be recorded yet: {why}", why=str(error))
            except CANCELLED:
                raise
            except Exception:  # the edge: what expires next must be seen all the same
                self.log.failure("what expires could not be recorded")
            if not self._again:
                await self._rest()
            await pause(self._clock, GATHER_S)

    async def _rest(self) -> None:
        self._woken = Deferred(lambda _: None)
        try:
            await within(self._clock, CHECK_S, self._woken, "a change")
        except TimedOut:
            pass
        finally:
            self._woken = None

    async def check(self) -> None:
        """Record what has become more urgent since it was recorded last. Raises what the store raises."""
        told = await self._told()
        for ending in self._endings():
            await self._tell(ending, told.pop(_key(ending), None))
        for key, entry in told.items():
            if not key.startswith(TOLD + b"certificate/"):
                continue  # other nodes tell of what is theirs
            await self._store.transact(Transaction((Unchanged(key, entry.revision),), (Delete(key),)))

    async def _told(self) -> dict[bytes, Entry]:
        return {entry.key: entry async for entry in entries(self._store, TOLD)}

    async def _tell(self, ending: Ending, entry: Entry | None) -> None:
        urgency, key = self._urgency(ending), _key(ending)
        last = self._last(entry) if entry else None
        before = last.urgency if last and last.fingerprint == ending.fingerprint else "none"
        condition = Unchanged(key, entry.revision if entry else 0)
        if _DEGREES.index(urgency) > _DEGREES.index(before):
            told = put_record(key, ToldRecord(fingerprint=ending.fingerprint, urgency=urgency))
            record = self._record(ending, urgency)
            if (await self._store.transact(Transaction((condition,), (told, put_audit(record))))).succeeded:
                self.log.warn("{kind} {name}: {what}", kind=ending.kind, name=ending.name, what=record.outcome)
        elif urgency == "none" and entry is not None:
            await self._store.transact(Transaction((condition,), (Delete(key),)))

    def _last(self, entry: Entry) -> ToldRecord | None:
        try:
            return msgspec.json.decode(entry.value, type=ToldRecord)
        except msgspec.DecodeError as error:  # it is recorded once more then
            self.log.error(
                "what was recorded in {key} is damaged: {why}", key=entry.key.decode("ascii"), why=str(error)
            )
            return None

    def _record(self, ending: Ending, urgency: Urgency) -> AuditRecord:
        at = f"{datetime.fromtimestamp(ending.until, UTC):%Y-%m-%d %H:%M}Z"
        left = f"expires in {format_seconds(ending.until - self._now())}, at {at}"
        return AuditRecord(
            time=self._now(),
            node=self._node,
            kind=f"{ending.kind}-expires",
            source=self._node,
            id=ending.name,
            fingerprint=ending.fingerprint,
            outcome=f"expired at {at}" if urgency == "expired" else left,
            notice=urgency == "soon",
            alarm=urgency != "soon",
        )


def _key(ending: Ending) -> bytes:
    return TOLD + f"{ending.kind}/{ending.name}".encode("ascii")
