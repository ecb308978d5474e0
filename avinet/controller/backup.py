"""A node's state in one file, taken while the node runs, and put back where there is none.

A gzipped tar: `manifest.json` with size and SHA-256 of each file, then the store in an SQLite file, as its own online
backup gives it or as etcd had it at one revision, the domain of trust, and the settings. The store is taken first: what
it names is among the files read after it. Only the seal of its secrets may have been replaced by then: it begins again.

A store that comes back is older than what service engines remember. So its revisions and the epoch of its trust
document go on far above any that they have seen (what is lower is refused), what is desired is compiled anew under
those, certificates are delivered anew as they are in the backup, the secrets of their hellos are forgotten, and claims
that were open then are closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import sqlite3
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from avinet import __version__
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
    read_limited,
    remove_durably,
    sweep,
    sync_folder,
    work_folder,
    write_atomic,
)
from avinet.store.interface import OPERATIONS, Delete, Put, Transaction
from avinet.store.resting import STORE, FilePlace
from avinet.store.tables import Tables
from avinet.trust.domain import NEXT, Domain, load
from avinet.trust.sealing import SECRETS_KEY
from avinet.wire.message import encode
from avinet.wire.trust import SignedTrust, TrustDocument

MANIFEST, TRUST, SETTINGS = "manifest.json", "trust", "controller.toml"
_BEGUN = "restore-begun"
_TRIES = 5
FORMAT = 1
AHEAD = 1 << 32
"""How far above those of a backup the revisions of the store go on that is made of it, at least."""
_PIECE_BYTES = 1024 * 1024
_FILE_BYTES = 1024 * 1024
_MANIFEST_BYTES = 8 * 1024 * 1024
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,4}\Z")
_FORGOTTEN = (RATCHETS, SEEN, SINCE, b"config/desired/", b"log/sealer")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file in a backup."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backup is of, and what is in it, by path."""

    format: int
    version: str
    domain: str
    node: str
    time: float
    files: dict[str, Part]


@dataclass(frozen=True)
class Place:
    """Where a node lives: its state folder, and its settings, if they are to come along."""

    state: Path
    settings: Path | None = None


def back_up(place: Place, out: Path, now: float, copy_store: Callable[[Path], None] | None = None) -> Manifest:
    """Write a backup to `out`, whole or not at all. Raises `LocalError`.

    `copy_store` writes a copy of a store that is not in the state folder to a new SQLite file.
    """
    domain, trust = load(place.state / TRUST), place.state / TRUST
    for _ in range(_TRIES):
        with work_folder(out.parent, ".avinet-backup-") as work:
            seals = _seals(trust)
            try:
                sources = _gathered(place, work, copy_store)
            except LocalError:
                if _seals(trust) == seals:
                    raise
                continue
            if _seals(work / TRUST) != seals:
                continue
            files = {name: _measured(path) for name, path in sources.items()}
            manifest = Manifest(
                format=FORMAT, version=__version__, domain=domain.id, node=domain.node, time=now, files=files
            )
            _pack(sources, manifest, work / "backup")
            os.replace(work / "backup", out)
            sync_folder(out.parent)
            return manifest
    raise LocalError(
        f"{trust / SECRETS_KEY} was another one each time that the store was copied",
        hint="try again when avictl certificate reseal has ended",
    )


def _seals(trust: Path) -> dict[str, bytes]:
    """The key that seals secrets in the store, and the one that is to take its place while there is one.

    Those of a backup must be the same before and after its store is copied: else they may not open what is in it.
    """
    found = {}
    for name in (SECRETS_KEY, f"{SECRETS_KEY}{NEXT}"):
        try:
            found[name] = (trust / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise cannot("read", trust / name, error) from error
    return found


def _gathered(place: Place, work: Path, copy_store: Callable[[Path], None] | None) -> dict[str, Path]:
    """Copies of all that goes into a backup, below `work`, by path in the backup."""
    if copy_store is None:
        _copy_store(place.state / STORE, work / STORE)
    else:
        copy_store(work / STORE)
    sources, trust = {STORE: work / STORE}, place.state / TRUST
    for path in sorted(each for each in trust.rglob("*") if each.is_file() and not each.is_symlink()):
        name = f"{TRUST}/{path.relative_to(trust).as_posix()}"
        if _PATH.match(name):  # what an editor has left there is none of ours
            sources[name] = _kept(path, work / name)
    if place.settings is not None:
        sources[SETTINGS] = _kept(place.settings, work / SETTINGS)
    return sources


def _copy_store(store: Path, to: Path) -> None:
    """Take the store as it is at one moment, whatever is written to it meanwhile."""
    FilePlace(store.parent).check_used()
    if not store.exists():
        raise LocalError(f"there is no store in {store.parent}", hint="a node has one once it was started")
    to.touch(mode=0o600)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)  # in one step: a store that is written to would have it begin again and again
            if target.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise LocalError(f"the store {store} is damaged: its copy is not whole")
    except sqlite3.Error as error:
        raise LocalError(f"cannot copy the store {store}: {error}") from error


def _kept(path: Path, to: Path) -> Path:
    """A copy of a small file, which may be replaced meanwhile."""
    private_folder(to.parent)
    write_atomic(to, read_limited(path, _FILE_BYTES))
    return to


def _measured(path: Path) -> Part:
    size, digest = 0, hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                size += len(piece)
                digest.update(piece)
    except OSError as error:
        raise cannot("read", path, error) from error
    return Part(size=size, sha256=digest.hexdigest())


def _pack(sources: dict[str, Path], manifest: Manifest, to: Path) -> None:
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
                _add(archive, MANIFEST, io.BytesIO(encoded := msgspec.json.encode(manifest)), len(encoded))
                for name, path in sources.items():
                    with path.open("rb") as source:
                        _add(archive, name, source, manifest.files[name].size)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot("write", to, error) from error


def _add(archive: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    archive.addfile(member, source)


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
            manifest = _unpack(backup, work)
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


def _unpack(backup: Path, work: Path) -> Manifest:
    """Write the files of a backup below `work`, each as long and with the hash that the manifest says."""
    try:
        with tarfile.open(backup, mode="r:gz") as archive:
            members = iter(archive)
            first = next(members, None)
            if first is None or first.name != MANIFEST or first.size > _MANIFEST_BYTES:
                raise Invalid(f"{backup} is no backup of a node")
            manifest = msgspec.json.decode(_opened(archive, first).read(), type=Manifest)
            if manifest.format > FORMAT:
                raise Invalid(
                    f"{backup} has format {manifest.format}, and this version of avinet knows {FORMAT}",
                    hint=f"avinet {manifest.version} has written it",
                )
            left = dict(manifest.files)
            for member in members:
                part = left.pop(member.name, None)
                if part is None or not member.isreg() or member.size != part.size or not _PATH.match(member.name):
                    raise Invalid(f"{backup} holds {member.name[:80]!r}, which its manifest does not have so")
                if _written(_opened(archive, member), work / PurePosixPath(member.name)) != part.sha256:
                    raise Invalid(f"{backup} is damaged: {member.name} is not what its manifest says")
    except (tarfile.TarError, zlib.error, EOFError, OSError, msgspec.DecodeError) as error:
        if isinstance(error, OSError) and error.filename:
            raise cannot("read", backup, error) from error
        raise Invalid(f"{backup} is no backup of a node: {error}") from error
    if left:
        raise Invalid(f"{backup} is not whole: {min(left)} is missing")
    return manifest


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise Invalid(f"{member.name[:80]!r} is no file")
    return file


def _written(source: IO[bytes], path: Path) -> str:
    """Write a file durably; its SHA-256."""
    private_folder(path.parent)
    digest = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot("write", path, error) from error
    with open(descriptor, "wb") as file:
        while piece := source.read(_PIECE_BYTES):
            digest.update(piece)
            try:
                file.write(piece)
            except OSError as error:
                raise cannot("write", path, error) from error
        try:
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise cannot("write", path, error) from error
    sync_folder(path.parent)
    return digest.hexdigest()


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
    after, more = b"", True
    while more:
        page = tables.range(ENGINES, 1000, after)
        for entry in page.entries:
            after = entry.key
            record = msgspec.json.decode(entry.value, type=EngineRecord)
            if record.claim_sha256 or record.approved:
                yield put_record(
                    entry.key, msgspec.structs.replace(record, claim_sha256="", claim_expires=0.0, approved="")
                )
        more = page.more


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
    after, more = b"", True
    while more:
        page = tables.range(CERTIFICATES, 1, after)
        for entry in page.entries:
            after = entry.key
            record = msgspec.json.decode(entry.value, type=CertificateRecord)
            yield put_record(entry.key, msgspec.structs.replace(record, revision=0))
        more = page.more


def _keys(tables: Tables, prefix: bytes) -> Iterator[list[bytes]]:
    """All keys below `prefix`, some at a time; each of them is to be gone when the next are asked for."""
    while found := [entry.key for entry in tables.range(prefix, OPERATIONS, b"").entries]:
        yield found
