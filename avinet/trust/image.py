"""The image bundle: what a service engine boots from, in one file, every part of it under one signature.

A gzipped tar, the same bytes for the same contents and time but for its signature: `manifest.json` names each file with
its SHA-256; `manifest.sig` is the issuing CA's signature over it, `issuer.pem` its certificate.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from avinet.errors import Invalid
from avinet.files import private_folder, write_atomic
from avinet.ids import ID_PATTERN
from avinet.trust.authority import IssuingCA
from avinet.trust.document import sign_document, verify_document
from avinet.trust.path import parse_certificates

LIMIT_BYTES = 256 * 1024 * 1024
FILES = 1000
MANIFEST, SIGNATURE, ISSUER = "manifest.json", "manifest.sig", "issuer.pem"
ROOTS, NODES, KEY, SETTINGS = "roots.pem", "nodes.json", "image.key", "se.toml"
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9][A-Za-z0-9._+-]*){0,4}\Z")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle holds: image id, time of building, until when its key is good, and the SHA-256 of each file."""

    v: int = 1
    image: str = msgspec.field()
    domain: str = msgspec.field()
    built: float = msgspec.field()
    not_after: float = msgspec.field()
    files: dict[str, str] = msgspec.field()


@dataclass(frozen=True)
class Image:
    """An image whose signature and hashes have been verified; `files` by path."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def roots(self) -> list[x509.Certificate]:
        """The root CA certificates."""
        return parse_certificates(self.files[ROOTS], ROOTS)


def build_image(
    files: Mapping[str, bytes], *, image: str, domain: str, built: float, not_after: float, issuing: IssuingCA
) -> bytes:
    """The bundle with `files`, as bytes."""
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}
    manifest = msgspec.json.encode(Manifest(image=image, domain=domain, built=built, not_after=not_after, files=hashes))
    parts = {
        MANIFEST: manifest,
        SIGNATURE: sign_document(manifest, issuing).encode("ascii"),
        ISSUER: issuing.chain_pem.encode("ascii"),
        **dict(sorted(files.items())),
    }
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=int(built), compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, data in parts.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(data), 0o600, int(built)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def open_image(packed: bytes, root_fingerprint: str | None = None) -> Image:
    """The image in a bundle, verified: signature, hashes, nothing missing, nothing more.

    The bundle brings its own root CA: `root_fingerprint` (SHA-256, hexadecimal) says which one it must be, where that
    is known from elsewhere. Raises `Invalid`, or `Unauthenticated` when the signature is not by an issuing CA.
    """
    parts = _unpack(packed)
    try:
        manifest = msgspec.json.decode(parts[MANIFEST], type=Manifest)
        roots = parse_certificates(parts[ROOTS], ROOTS)
        signature, issuer = parts[SIGNATURE].decode("ascii"), parts[ISSUER]
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise Invalid(f"that is no image of avinet: {error}") from error
    if root_fingerprint and all(fingerprint(root) != root_fingerprint.lower() for root in roots):
        raise Invalid("the image is of another domain of trust: its root CA has another fingerprint")
    return Image(manifest, _checked(parts, manifest, signature, issuer, roots))


def _checked(
    parts: Mapping[str, bytes], manifest: Manifest, signature: str, issuer: bytes, roots: Sequence[x509.Certificate]
) -> dict[str, bytes]:
    try:
        built = datetime.fromtimestamp(manifest.built, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Invalid("the image says of no time that it was built then") from error
    verify_document(parts[MANIFEST], signature, issuer, roots, built)
    files = {path: data for path, data in parts.items() if path not in (MANIFEST, SIGNATURE, ISSUER)}
    if files.keys() != manifest.files.keys():
        raise Invalid(f"the image is not whole: {min(files.keys() ^ manifest.files.keys())} is missing or too much")
    for path, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest.files[path]:
            raise Invalid(f"the image is damaged: {path} is not what the manifest says")
    if not re.match(ID_PATTERN, manifest.image):
        raise Invalid("the image has no valid id")
    return files


def unpack_image(image: Image, folder: Path) -> None:
    """Write the files of `image` below `folder`, readable by their owner alone. Raises `LocalError`."""
    for path, data in image.files.items():
        place = folder / PurePosixPath(path)
        private_folder(place.parent)
        write_atomic(place, data)
    write_atomic(folder / MANIFEST, msgspec.json.encode(image.manifest))


def load_manifest(folder: Path) -> Manifest:
    """The manifest of an image that was unpacked to `folder`. Raises `Invalid`."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Invalid(f"there is no image in {folder}: {error}") from error


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 fingerprint of a certificate, in hexadecimal."""
    return certificate.fingerprint(SHA256()).hex()


def _unpack(packed: bytes) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflated(packed)), mode="r:") as archive:
            for member in archive:
                if not member.isreg() or not _PATH.match(member.name) or member.name in parts or len(parts) >= FILES:
                    raise Invalid(f"the image holds {member.name[:80]!r}, which does not belong in one")
                file = archive.extractfile(member)
                assert file is not None
                parts[member.name] = file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise Invalid(f"that is no image of avinet: {error}") from error
    return parts


def _inflated(packed: bytes) -> bytes:
    """The tar in a bundle. Its headers can be as large as its files, so that the limit is for all of it."""
    inflating = zlib.decompressobj(wbits=31)
    try:
        tar = inflating.decompress(packed, LIMIT_BYTES)
    except zlib.error as error:
        raise Invalid(f"that is no image of avinet: {error}") from error
    if inflating.unconsumed_tail:
        raise Invalid(f"the image unpacks to more than {LIMIT_BYTES} bytes")
    if not inflating.eof or inflating.unused_data:
        raise Invalid("that is no image of avinet: it is cut off, or more comes after it")
    return tar
