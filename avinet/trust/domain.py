"""The domain of trust as files on a node: made once, all or nothing; loaded at each start.

`root.key` is needed to sign issuing CAs only, and can be taken away. Every other private key stays in the folder, which
its owner alone can enter. What is to take the place of a key or of the issuing CA stands beside it as `NAME.next` until
the fleet knows it; see `avinet.trust.succession`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from avinet.errors import Conflict, LocalError
from avinet.files import cannot, private_folder, read_limited, sync_folder, write_atomic
from avinet.ids import parse_id, random_name
from avinet.trust import keys
from avinet.trust.authority import Credential, IssuingCA, new_issuing, new_node, new_root, node_name, renewal_due
from avinet.trust.path import parse_certificates, signed_by
from avinet.trust.sealing import SECRETS_KEY, make_key

R = TypeVar("R")

NONCE_KEY_BYTES = 32
ISSUING, NODE, ROOT, ROOT_KEY = "issuing.pem", "node.pem", "root.pem", "root.key"
SSH_HOST_KEY, AVICTLRUSER_KEY = "ssh_host_ed25519_key", "avictlruser_ed25519_key"
NEXT = ".next"
"""What the name of a file ends with that is to replace another."""
FORMAT = 2
"""Of the state folder that this domain is in; see `avinet.controller.upgrade`."""
IMAGE_LIFE = timedelta(days=365)
_LIMIT_BYTES = 64 * 1024


class _Format(msgspec.Struct, frozen=True):
    """What stands in `domain.json` in every format."""

    format: Annotated[int, Meta(ge=1)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`domain.json`: what the keys beside it belong to."""

    format: int
    domain: str
    node: str
    created: float
    first_image: str
    first_image_not_after: float


@dataclass(frozen=True)
class ImageKey:
    """An image key as it was made: the private half is in every image that is built with it."""

    id: str
    key: Ed25519PrivateKey
    not_after: float


@dataclass(frozen=True)
class Domain:
    """What a node has of its domain of trust. `nonce_key` is for challenges, 32 bytes; `next_*` are successors."""

    folder: Path
    id: str
    node: str
    created: float
    issuing: IssuingCA
    server: Credential
    ssh_host_key: Ed25519PrivateKey
    avictlruser_key: Ed25519PrivateKey
    nonce_key: bytes
    first_image: ImageKey
    next_issuing: IssuingCA | None = None
    next_ssh_host_key: Ed25519PrivateKey | None = None
    next_avictlruser_key: Ed25519PrivateKey | None = None

    @property
    def name(self) -> str:
        """The TLS name of this node."""
        return node_name(self.node, self.id)

    @property
    def root(self) -> x509.Certificate:
        """The root CA that the node's certificate is under."""
        return self.issuing.root

    @property
    def root_pem(self) -> str:
        """The root CA's certificate in PEM."""
        return self.root.public_bytes(Encoding.PEM).decode("ascii")

    @property
    def server_chain(self) -> list[x509.Certificate]:
        """The node's certificate, and what leads from it to a root."""
        return [self.server.certificate, *self.issuing.chain]

    def renewed(self, now: datetime) -> Domain:
        """This domain with a node certificate that is not due for renewal: a new one, written durably, or the same.

        `root.pem` is a copy of the root CA in use, for people and their tools: it is put right, too.
        """
        published = self.folder / ROOT
        if not published.exists() or published.read_bytes() != self.root_pem.encode("ascii"):
            write_atomic(published, self.root_pem.encode("ascii"))
        current = signed_by(self.server.certificate, self.issuing.certificate)
        if current and not renewal_due(self.server.certificate, now):
            return self
        if self.issuing.certificate.not_valid_after_utc <= now:  # nothing can be signed before there is another one
            return self
        server = new_node(self.issuing, self.node, self.id, now)
        _save(self.folder / NODE, server)
        return replace(self, server=server)

    def image_key(self, id: str) -> Ed25519PrivateKey:
        """The private key of an image. Raises `LocalError` when it is not on this node."""
        return keys.load_private(self.folder / "images" / f"{parse_id(id)}.key")


def found(folder: Path, node: str, now: datetime, random: Callable[[int], bytes] = os.urandom) -> Domain:
    """Make a new domain of trust in `folder`, which must not exist yet; it appears whole, or not at all.

    Raises `Conflict` when there is one already, which is left as it is, and `LocalError`.
    """
    parse_id(node, "node id")
    if folder.exists():
        raise Conflict(f"there is a domain of trust in {folder} already, and it was left as it is")
    private_folder(folder.parent)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    domain = "d" + random_name(random, 11)
    try:
        private_folder(aside)
        private_folder(aside / "images")
        root = new_root(domain, now)
        issuing = new_issuing(root, domain, now)
        write_atomic(aside / ROOT_KEY, root.key_pem)
        write_atomic(aside / ROOT, root.certificate_pem)
        write_atomic(aside / ISSUING, issuing.pem)
        _save(aside / NODE, new_node(issuing, node, domain, now))
        keys.save_private(aside / SSH_HOST_KEY, keys.generate())
        keys.save_private(aside / AVICTLRUSER_KEY, keys.generate())
        write_atomic(aside / "nonce.key", random(NONCE_KEY_BYTES))
        make_key(aside / SECRETS_KEY, random)
        image = "image-" + now.strftime("%Y%m%d")
        keys.save_private(aside / "images" / f"{image}.key", keys.generate())
        record = _Record(
            format=FORMAT,
            domain=domain,
            node=node,
            created=now.timestamp(),
            first_image=image,
            first_image_not_after=(now + IMAGE_LIFE).timestamp(),
        )
        write_atomic(aside / "domain.json", msgspec.json.encode(record))
        os.rename(aside, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise cannot("make", folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return load(folder)


def load(folder: Path) -> Domain:
    """The domain of trust in `folder`. Raises `LocalError`, for a newer format among others."""
    if (newer := format_of(folder)) > FORMAT:
        raise LocalError(
            f"the domain of trust in {folder} has format {newer}, and this version of avinet knows {FORMAT}",
            hint="use the newer version that wrote it",
        )
    record = _decoded(folder, _Record)
    return Domain(
        folder=folder,
        id=record.domain,
        node=record.node,
        created=record.created,
        issuing=_load_issuing(folder),
        server=_load(folder / NODE),
        ssh_host_key=keys.load_private(folder / SSH_HOST_KEY),
        avictlruser_key=keys.load_private(folder / AVICTLRUSER_KEY),
        nonce_key=_nonce_key(folder / "nonce.key"),
        first_image=ImageKey(
            record.first_image,
            keys.load_private(folder / "images" / f"{parse_id(record.first_image)}.key"),
            record.first_image_not_after,
        ),
        next_issuing=_load_next_issuing(folder),
        next_ssh_host_key=_load_next_key(folder / SSH_HOST_KEY),
        next_avictlruser_key=_load_next_key(folder / AVICTLRUSER_KEY),
    )


def _decoded(folder: Path, kind: type[R]) -> R:
    if not folder.is_dir():
        raise LocalError(f"there is no domain of trust in {folder}", hint="make one with avictl init")
    try:
        return msgspec.json.decode(read_limited(folder / "domain.json", _LIMIT_BYTES), type=kind)
    except msgspec.DecodeError as error:
        raise LocalError(f"{folder / 'domain.json'} cannot be read: {error}") from error


def format_of(folder: Path) -> int:
    """The format of the state folder that the domain in `folder` is in; it may be a newer one. Raises `LocalError`."""
    return _decoded(folder, _Format).format


def with_format(folder: Path, format: int) -> None:
    """Write durably that the state folder has another format. Raises `LocalError`."""
    record = msgspec.structs.replace(_decoded(folder, _Record), format=format)
    write_atomic(folder / "domain.json", msgspec.json.encode(record))


def _save(path: Path, credential: Credential) -> None:
    """One file for both halves, so that they are replaced together."""
    write_atomic(path, credential.certificate_pem + credential.key_pem)


def _load(path: Path) -> Credential:
    data = read_limited(path, _LIMIT_BYTES)
    return Credential.from_pem(data, data, str(path))


def _load_issuing(folder: Path) -> IssuingCA:
    path = folder / ISSUING
    data = read_limited(path, _LIMIT_BYTES)
    if len(parse_certificates(data, str(path))) == 1:  # as it was made before roots could follow one another
        data += read_limited(folder / ROOT, _LIMIT_BYTES)
    return IssuingCA.parse(data, str(path))


def _load_next_issuing(folder: Path) -> IssuingCA | None:
    path = folder / f"{ISSUING}{NEXT}"
    return IssuingCA.parse(read_limited(path, _LIMIT_BYTES), str(path)) if path.exists() else None


def _load_next_key(path: Path) -> Ed25519PrivateKey | None:
    following = path.with_name(f"{path.name}{NEXT}")
    return keys.load_private(following) if following.exists() else None


def _nonce_key(path: Path) -> bytes:
    key = read_limited(path, NONCE_KEY_BYTES)
    if len(key) != NONCE_KEY_BYTES:
        raise LocalError(
            f"{path} is damaged: it has {len(key)} bytes, not {NONCE_KEY_BYTES}", hint="restore it from a backup"
        )
    return key
