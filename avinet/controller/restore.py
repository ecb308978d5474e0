"""A node's state put back from a backup, where there is none.

A store that comes back is older than what service engines remember. So its revisions and the epoch of its trust
document go on far above any that they have seen (what is lower is refused), what is desired is compiled anew under
those, certificates are delivered anew as they are in the backup, the secrets of their hellos are forgotten, and claims
that were open then are closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from avinet.controller.archive import Manifest, unpack
from avinet.controller.backup import TRUST, Place
from avinet.controller.certificates.records import CERTIFICATES, CertificateRecord
from avinet.controller.epochs import SEEN
from avinet.controller.standing import SINCE, sign_trust
from avinet.controller.standing import TRUST as TRUST_KEY
from avinet.enrolment.records import ENGINES, RATCHETS, AuditRecord, EngineRecord, put_audit, put_record
from avinet.errors import Conflict, Invalid, LocalError
from avinet.files import (
    FolderLock,
    cannot,
    private_folder,
    remove_durably,
    sweep,
    sync_folder,
    work_folder,
    write_atomic,
)
from avinet.store.interface import OPERATIONS, Delete, Put, Transaction
from avinet.store.resting import STORE
from avinet.store.tables import Tables
from avinet.trust.domain import Domain, load
from avinet.wire.message import encode
from avinet.wire.trust import SignedTrust, TrustDocument

AHEAD = 1 << 32
"""How far above those of a backup the revisions of the store go on that is made of it, at least."""
_BEGUN = "restore-begun"
_FORGOTTEN = (RATCHETS, SEEN, SINCE, b"config/desired/", b"log/sealer")


def restore(
    backup: Path, place: Place, actor: str, now: float, elsewhere: Callable[[Domain], bool] = lambda domain: False
) -> Manifest:
    """Make the state folder of a node out of a backup; it appears whole, or not at all.

    The store is not put back where `elsewhere` says that the domain has its state still: on etcd.

    Raises `Conflict` when there is a state folder already, `Invalid` for what is no backup, and `LocalError`.
    """
    private_folder(place.state)
    lock = FolderLock(place.state)
    lock.acquire()
    try:
        if (place.state / TRUST).exists():
            raise Conflict(
                f"there is a node's state in {place.state} already", hint="move that whole folder away first"
            )
        if any(place.state.glob(f"{STORE}*")) and not (place.state / _BEGUN).exists():
            raise Conflict(
                f"there is a store in {place.state}, without its domain of trust",
                hint=f"move {STORE} and all that begins like it away first",
            )
        sweep(place.state)
        with work_folder(place.state, ".restore-") as work:
            manifest = unpack(backup, work)
            domain = load(work / TRUST)
            if (domain.id, domain.node) != (manifest.domain, manifest.node):
                raise Invalid(f"{backup} says that it is of another node than it is")
            names = (TRUST,) if elsewhere(domain) else (STORE, TRUST)
            if STORE in names:
                _go_on(work / STORE, domain, manifest, actor, now)
            write_atomic(
                place.state / _BEGUN, b""
            )  # a store without a domain of trust is of a restore that was cut off
            for left in place.state.glob(f"{STORE}*"):
                left.unlink()
            for name in names:
                os.rename(work / name, place.state / name)
            sync_folder(place.state)
            remove_durably(place.state / _BEGUN)
    except OSError as error:
        raise cannot("restore", place.state, error) from error
    finally:
        lock.release()
    return manifest


def _go_on(store: Path, domain: Domain, manifest: Manifest, actor: str, now: float) -> None:
    """Have the store go on above all that a service engine may have seen, and record that it was restored.

    What it goes on with follows from the time: a backup that is restored once more is above the time before, too.
    """
    tables = Tables(store)
    try:
        ahead = max(AHEAD, int(now) << 20)
        tables.revision += ahead
        with tables.committed():
            puts = [*_closed(tables), *_newer_trust(tables, domain, ahead)]
            for at in range(0, len(puts), OPERATIONS):
                tables.transact(Transaction((), tuple(puts[at : at + OPERATIONS])))
        for put in _delivered_anew(tables):
            with tables.committed():
                tables.transact(Transaction((), (put,)))
        for prefix in _FORGOTTEN:
            for some in _keys(tables, prefix):
                with tables.committed():
                    tables.transact(Transaction((), tuple(map(Delete, some))))
        audit = AuditRecord(
            time=now,
            node=manifest.node,
            kind="restore",
            source=actor,
            outcome=f"from a backup of {manifest.time:.0f}",
            notice=True,
        )
        with tables.committed():
            tables.transact(Transaction((), (put_audit(audit),)))
    finally:
        tables.close()
    if any(store.parent.glob(f"{store.name}-*")):
        raise LocalError(f"the store that is restored could not be closed: {store.name}-wal stays beside it")


def _closed(tables: Tables) -> Iterator[Put]:
    """Claims that are open in a backup may have been used since: nobody gets in by them any more."""
    for entry in tables.entries(ENGINES, page=1000):
        record = msgspec.json.decode(entry.value, type=EngineRecord)
        if record.claim_sha256 or record.approved:
            closed = msgspec.structs.replace(record, claim_sha256="", claim_expires=0.0, approved="")
            yield put_record(entry.key, closed)


def _newer_trust(tables: Tables, domain: Domain, ahead: int) -> Iterator[Put]:
    """The trust document under an epoch that no service engine has seen, as it takes none that is lower."""
    entry = tables.read([TRUST_KEY]).entries.get(TRUST_KEY)
    if entry is not None:
        signed = msgspec.json.decode(entry.value, type=SignedTrust)
        document = msgspec.json.decode(signed.document, type=TrustDocument)
        document = msgspec.structs.replace(document, epoch=document.epoch + ahead)
        yield Put(TRUST_KEY, encode(sign_trust(document, domain.issuing)))


def _delivered_anew(tables: Tables) -> Iterator[Put]:
    """Each certificate as it is, for a revision that no service engine has seen: it takes none that is lower."""
    for entry in tables.entries(CERTIFICATES, page=1):
        record = msgspec.json.decode(entry.value, type=CertificateRecord)
        yield put_record(entry.key, msgspec.structs.replace(record, revision=0))


def _keys(tables: Tables, prefix: bytes) -> Iterator[list[bytes]]:
    """All keys below `prefix`, some at a time; each of them is to be gone when the next are asked for."""
    while found := [entry.key for entry in tables.range(prefix, OPERATIONS, b"").entries]:
        yield found
