"""The certificates of the domain in the store: chains as they are, private keys sealed, each change with its record.

`certificate/NAME` is a certificate; `certificates` has all names, and is written when one comes or goes: no change of a
document can overlook that. A private key leaves here for service engines, and for nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks
from avinet.controller.certificates.checks import checked
from avinet.controller.certificates.records import (
    CERTIFICATES,
    NAMES,
    CertificateRecord,
    Kept,
    NamesRecord,
    about,
    as_earlier,
    certificate_key,
    names_in,
    sealed,
)
from avinet.controller.certificates.seals import InThread, Seals
from avinet.enrolment.records import AuditRecord, put_audit, put_record
from avinet.errors import Conflict, LocalError, NotFound, Precondition, TooLarge, Unavailable
from avinet.ids import parse_id
from avinet.store.interface import Delete, Entry, Put, Store, Transaction, Unchanged
from avinet.store.mirror import Mirror
from avinet.trust.image import fingerprint
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import (
    CertificateMaterial,
    CertificatePut,
    CertificateStored,
    CertificateVersion,
    material_sha256,
)

MOST = 1000
KEPT_EARLIER = 10
_RACES = 10


class Using(Protocol):
    """The documents that name certificates; see `avinet.config.documents.Documents`."""

    async def naming(self, certificate: str) -> tuple[list[str], Unchanged]:
        """Those that name one, in any version that is in use; and the condition that this is still so."""


class Vault:
    """The certificates of the domain, on the node `node`. `changed(name)` is called when one changes, comes or goes.

    `in_thread` runs what takes long; `now` is the time of day.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        tasks: Tasks,
        seals: Seals,
        node: str,
        using: Callable[[], Using],
        changed: Callable[[str], None],
        in_thread: InThread,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._seals = seals
        self._node = node
        self._using = using
        self._changed = changed
        self._in_thread = in_thread
        self._now = now
        self._kept: dict[str, Kept] = {}
        self._mirror = Mirror(store, clock, tasks, CERTIFICATES, self._take, "the certificates")

    async def start(self) -> None:
        """Read all certificates, and follow their changes from there."""
        await self._mirror.start()
        lost = sorted(name for name in self._kept if self.problem(name))
        if lost:
            self.log.error(
                "the private keys of {count} certificates cannot be opened, {first} among them: trust/secrets.key is "
                "not the one that sealed them; restore it from a backup, or put these certificates again",
                count=len(lost),
                first=lost[0],
            )

    def stop(self) -> None:
        """Follow no more changes."""
        self._mirror.stop()

    def _take(self, name: str, entry: Entry | None) -> None:
        before = self._kept.get(name)
        if entry is None:
            self._kept.pop(name, None)
        elif before is None or before.revision != entry.revision:
            try:
                record = msgspec.json.decode(entry.value, type=CertificateRecord)
                self._kept[name] = Kept(name, record, entry.revision)
            except (msgspec.DecodeError, ValueError) as error:
                self.log.warn("certificate {name} in the store cannot be read: {why}", name=name, why=str(error))
                return
        if self._kept.get(name) is not before:
            self._changed(name)

    # what is there

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._kept))

    def get(self, name: str) -> Kept | None:
        """A certificate as it is now."""
        return self._kept.get(name)

    def require(self, name: str) -> Kept:
        """A certificate as it is now. Raises `Invalid` for what is no name, and `NotFound`."""
        found = self._kept.get(parse_id(name, "certificate name"))
        if found is None:
            raise NotFound(f"there is no certificate {name}", hint="see avictl certificate list")
        return found

    def version(self, name: str) -> CertificateVersion | None:
        """The version that service engines are to hold."""
        found = self._kept.get(name)
        return found.version if found else None

    def problem(self, name: str) -> str:
        """Why a certificate cannot be delivered; empty when it can."""
        found = self._kept.get(name)
        if found is None:
            return f"there is no certificate {name}"
        if self._seals.of(found.record.sealed_by) is None:
            return f"the private key of certificate {name} cannot be opened: put the certificate again"
        return ""

    def material(self, name: str) -> CertificateMaterial:
        """What service engines are sent. Raises `LocalError`, for one that cannot be opened too."""
        found = self._kept.get(name)
        seal = self._seals.of(found.record.sealed_by) if found else None
        if found is None or seal is None:
            raise LocalError(self.problem(name))
        key = seal.open(found.record.sealed, about(name, found.record)).decode("ascii")
        return CertificateMaterial(version=found.version, chain=found.record.chain, key=key)

    async def names(self) -> tuple[frozenset[str], Unchanged]:
        """The names of all certificates; and the condition that these are still all."""
        entry = (await self._store.read([NAMES])).entries.get(NAMES)
        return frozenset(names_in(entry)), Unchanged(NAMES, entry.revision if entry else 0)

    # what changes

    def wrote(self, name: str, record: CertificateRecord, revision: int) -> None:
        """A certificate was written by this node, at `revision`: it is known before it is seen."""
        entry = Entry(certificate_key(name), msgspec.json.encode(record), revision, revision)
        self._mirror.wrote(name, entry, revision)

    async def put(
        self, name: str, put: CertificatePut, author: str, *, expected: int | None = None
    ) -> CertificateStored:
        """Create or replace a certificate. `expected` is the version that the author has seen, 0 for none.

        Raises `Invalid` in a line that quotes nothing of the key, `Precondition` when another version is current,
        `TooLarge`; nothing is changed then.
        """
        parse_id(name, "certificate name")
        found = await self._in_thread(lambda: checked(put, self._now()))
        async with self._seals.turn:
            return await self._put(name, found, author, expected)

    async def _put(self, name: str, found: ServerCertificate, author: str, expected: int | None) -> CertificateStored:
        sha256 = material_sha256(found.chain_pem, found.key_pem)
        for _ in range(_RACES):
            entry, names = await self._read(name)
            old = msgspec.json.decode(entry.value, type=CertificateRecord) if entry else None
            current = old.version if old else 0
            _check_expected(name, current, expected)
            if old is not None and old.sha256 == sha256 and self._seals.of(old.sealed_by) is not None:
                return CertificateStored(name=name, version=current, changed=False)
            if old is None and len(names_in(names)) >= MOST:
                raise TooLarge(f"there are {MOST} certificates already")
            record = self._record(name, found, sha256, author, old)
            then: list[Put | Delete] = [
                put_record(certificate_key(name), record),
                self._audit("certificate-put", author, name, record),
            ]
            conditions = [Unchanged(certificate_key(name), entry.revision if entry else 0)]
            if old is None:
                conditions.append(Unchanged(NAMES, names.revision if names else 0))
                then.append(put_record(NAMES, NamesRecord(names=sorted({*names_in(names), name}))))
            done = await self._store.transact(Transaction(tuple(conditions), tuple(then)))
            if done.succeeded:
                self.wrote(name, record, done.revision)
                self.log.info(
                    "certificate {name} is at version {version} by {author}",
                    name=name,
                    version=record.version,
                    author=author,
                )
                return CertificateStored(name=name, version=record.version, changed=True)
        raise Unavailable(f"too many changes of certificate {name} race with this one")

    async def delete(self, name: str, author: str, *, expected: int | None = None) -> None:
        """Forget a certificate. Raises `NotFound`, `Precondition`, and `Conflict` while a document names it."""
        parse_id(name, "certificate name")
        for _ in range(_RACES):
            documents, unused = await self._using().naming(name)
            entry, names = await self._read(name)
            if entry is None:
                raise NotFound(f"there is no certificate {name}", hint="see avictl certificate list")
            record = msgspec.json.decode(entry.value, type=CertificateRecord)
            _check_expected(name, record.version, expected)
            if documents:
                raise Conflict(
                    f"certificate {name} is served by document {', '.join(documents[:3])}"
                    + (" and others" if len(documents) > 3 else ""),
                    hint="apply the document without it first",
                )
            conditions = (
                Unchanged(certificate_key(name), entry.revision),
                Unchanged(NAMES, names.revision if names else 0),
                unused,
            )
            then = (
                Delete(certificate_key(name)),
                put_record(NAMES, NamesRecord(names=sorted({*names_in(names)} - {name}))),
                self._audit("certificate-deleted", author, name, record),
            )
            done = await self._store.transact(Transaction(conditions, then))
            if done.succeeded:
                self._mirror.wrote(name, None, done.revision)
                self.log.info("certificate {name} was deleted by {author}", name=name, author=author)
                return
        raise Unavailable(f"too many changes of certificate {name} race with this one")

    async def _read(self, name: str) -> tuple[Entry | None, Entry | None]:
        found = (await self._store.read([certificate_key(name), NAMES])).entries
        return found.get(certificate_key(name)), found.get(NAMES)

    def _record(
        self, name: str, found: ServerCertificate, sha256: str, author: str, old: CertificateRecord | None
    ) -> CertificateRecord:
        record = CertificateRecord(
            version=(old.version if old else 0) + 1,
            author=author,
            time=self._now(),
            chain=found.chain_pem,
            sha256=sha256,
            sealed="",
            sealed_by="",
            earlier=[as_earlier(old), *old.earlier][:KEPT_EARLIER] if old else [],
        )
        return sealed(name, record, found.key_pem.encode("ascii"), self._seals.current)

    def _audit(self, kind: str, author: str, name: str, record: CertificateRecord) -> Put:
        leaf = record.leaf
        return put_audit(
            AuditRecord(
                time=self._now(),
                node=self._node,
                kind=kind,
                source=author,
                id=name,
                fingerprint=fingerprint(leaf),
                outcome=f"version {record.version}, until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z",
            )
        )


def _check_expected(name: str, current: int, expected: int | None) -> None:
    if expected is not None and expected != current:
        raise Precondition(
            f"certificate {name} is at version {current}, not {expected}"
            if current
            else f"there is no certificate {name}",
            hint="look at it again: avictl certificate show",
        )
