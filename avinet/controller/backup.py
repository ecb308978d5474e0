"""A node's state in one file, taken while the node runs, and put back where there is none.

A gzipped tar: `manifest.json` with size and SHA-256 of each file, then the store as SQLite's own online backup gives
it, the domain of trust, and the settings. The store is taken first: what it names is among the files read after it.

A store that comes back is older than what service engines remember. So its revisions go on far above any that they
have seen (a fence that is lower is refused, and so is a configuration), what is desired is compiled anew under those,
and the secrets of their hellos are forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO

import msgspec

from avinet import __version__
from avinet.enrolment.records import RATCHETS, AuditRecord, put_audit
from avinet.errors import Conflict, Invalid, LocalError
from avinet.files import FolderLock, cannot, private_folder, sync_folder
from avinet.store.interface import OPERATIONS, Delete, Transaction
from avinet.store.tables import Tables
from avinet.trust.domain import load

MANIFEST, STORE, TRUST, SETTINGS = "manifest.json", "store.sqlite", "trust", "controller.toml"
FORMAT = 1
AHEAD = 1 << 32
"""How far above the revisions of a backup those of the store go on that is made of it."""
FILES = 10_000
_PIECE_BYTES = 1024 * 1024
_MANIFEST_BYTES = 8 * 1024 * 1024
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,4}\Z")
_FORGOTTEN = (RATCHETS, b"config/desired/", b"log/sealer")


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


def back_up(place: Place, out: Path, now: float) -> Manifest:
    """Write a backup to `out`, whole or not at all. Raises `LocalError`."""
    domain = load(place.state / TRUST)
    with TemporaryDirectory(prefix=".avinet-backup-", dir=out.parent) as work:
        _copy_store(place.state / STORE, Path(work) / STORE)
        sources = {STORE: Path(work) / STORE}
        trust = place.state / TRUST
        for path in sorted(each for each in trust.rglob("*") if each.is_file() and not each.name.startswith(".")):
            sources[f"{TRUST}/{path.relative_to(trust).as_posix()}"] = path
        if place.settings is not None:
            sources[SETTINGS] = place.settings
        files = {name: _measured(path) for name, path in sources.items()}
        manifest = Manifest(
            format=FORMAT, version=__version__, domain=domain.id, node=domain.node, time=now, files=files
        )
        _pack(sources, manifest, Path(work) / "backup")
        os.replace(Path(work) / "backup", out)
        sync_folder(out.parent)
    return manifest


def _copy_store(store: Path, to: Path) -> None:
    """Take the store as it is at one moment, whatever is written to it meanwhile."""
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


def restore(backup: Path, place: Place, actor: str, now: float) -> Manifest:
    """Make the state folder of a node out of a backup; it appears whole, or not at all.

    Raises `Conflict` when there is a state folder already, `Invalid` for what is no backup, and `LocalError`.
    """
    if (place.state / TRUST).exists() or (place.state / STORE).exists():
        raise Conflict(f"there is a node's state in {place.state} already", hint="move it away first")
    private_folder(place.state)
    lock = FolderLock(place.state)
    lock.acquire()
    try:
        with TemporaryDirectory(prefix=".restore-", dir=place.state) as work:
            manifest = _unpack(backup, Path(work))
            domain = load(Path(work) / TRUST)
            if (domain.id, domain.node) != (manifest.domain, manifest.node):
                raise Invalid(f"{backup} says that it is of another node than it is")
            _go_on(Path(work) / STORE, manifest, actor, now)
            for name in (STORE, TRUST):  # the store first: with a domain of trust the folder is taken for whole
                os.rename(Path(work) / name, place.state / name)
            sync_folder(place.state)
            if place.settings is not None and SETTINGS in manifest.files and not place.settings.exists():
                shutil.copyfile(Path(work) / SETTINGS, place.settings)
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
    except (tarfile.TarError, EOFError, OSError, msgspec.DecodeError) as error:
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
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        while piece := source.read(_PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return digest.hexdigest()


def _go_on(store: Path, manifest: Manifest, actor: str, now: float) -> None:
    """Have the store go on above all that a service engine may have seen, and record that it was restored."""
    tables = Tables(store)
    try:
        tables.revision += AHEAD
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


def _keys(tables: Tables, prefix: bytes) -> Iterator[list[bytes]]:
    """All keys below `prefix`, some at a time; each of them is to be gone when the next are asked for."""
    while found := [entry.key for entry in tables.range(prefix, OPERATIONS, b"").entries]:
        yield found
