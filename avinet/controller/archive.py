"""The file of a backup: a gzipped tar with a manifest first, which has size and SHA-256 of each file behind it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from avinet.errors import Invalid
from avinet.files import cannot, private_folder, sync_folder

MANIFEST = "manifest.json"
FORMAT = 1
_PIECE_BYTES = 1024 * 1024
_MANIFEST_BYTES = 8 * 1024 * 1024
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,4}\Z")


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


def is_path(name: str) -> bool:
    """Whether a file may have this path in a backup."""
    return _PATH.match(name) is not None


def measured(path: Path) -> Part:
    """Size and hash of a file. Raises `LocalError`."""
    size, digest = 0, hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                size += len(piece)
                digest.update(piece)
    except OSError as error:
        raise cannot("read", path, error) from error
    return Part(size=size, sha256=digest.hexdigest())


def pack(sources: dict[str, Path], manifest: Manifest, to: Path) -> None:
    """Write `sources`, by path in the backup, and their manifest durably into a new file. Raises `LocalError`."""
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


def unpack(backup: Path, work: Path) -> Manifest:
    """Write the files of a backup below `work`, each as long and with the hash that the manifest says.

    Raises `Invalid` for what is no backup, and `LocalError`.
    """
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
                if part is None or not member.isreg() or member.size != part.size or not is_path(member.name):
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
