"""Certificates of virtual services with their keys: as operators put them, and on the way to those who serve them.

A private key stands in no representation of a message: what is logged or raised by mistake does not show it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from typing_extensions import override

from avinet.wire.message import Count, Id, Line, Message, Revision, Sha256, UnixTime, spelled

CHAIN_CERTIFICATES = 10
CHAIN_CHARS = 32 * 1024
KEY_CHARS = 8 * 1024
PUSHED = 64
"""The most certificates of one push; a service engine that needs more is sent several."""
HELD = 1000
"""The most certificates of one service engine."""
PUSH_LIMIT_BYTES = 4 * 1024 * 1024
PUT_LIMIT_BYTES = 256 * 1024
HOLDERS = 100
"""How many service engines are named that hold a certificate."""
REDACTED = "..."
_BASE64 = r"(?:[A-Za-z0-9+/=]{1,64}\n)+"

ChainPem = Annotated[
    str,
    spelled(
        rf"^(?:-----BEGIN CERTIFICATE-----\n{_BASE64}-----END CERTIFICATE-----\n)"
        rf"{{1,{CHAIN_CERTIFICATES}}}$(?!\n)",
        f"1 to {CHAIN_CERTIFICATES} certificates in PEM",
        max_length=CHAIN_CHARS,
    ),
]
"""The certificate of a server, and behind it those that lead to its root, each the issuer of the one before."""
_WRITE_ONLY = Meta(extra_json_schema={"writeOnly": True})
KeyPem = Annotated[
    str,
    _WRITE_ONLY,
    spelled(
        rf"^-----BEGIN PRIVATE KEY-----\n{_BASE64}-----END PRIVATE KEY-----\n$(?!\n)",
        "a private key in PEM, as PKCS #8 without a password",
        max_length=KEY_CHARS,
    ),
]


class Redacted:
    """Before `Message` among the bases of one that holds a private key as `key`, which it then never shows."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        names = [field.name for field in msgspec.structs.fields(self)]  # type: ignore[arg-type]
        return [(name, REDACTED if name == "key" else getattr(self, name)) for name in names]


class CertificateVersion(Message, frozen=True, kw_only=True):
    """Names what is delivered: the store revision at which it was put, and its SHA-256; see `material_sha256`."""

    name: Id
    revision: Revision
    sha256: Sha256


class CertificateMaterial(Redacted, Message, frozen=True, kw_only=True):
    """One version of a certificate, and the private key of the first certificate of `chain`."""

    version: CertificateVersion
    chain: ChainPem
    key: KeyPem


class CertificatePush(Message, frozen=True, kw_only=True):
    """Certificates that a service engine is to hold; what it holds of other names stays."""

    certificates: Annotated[list[CertificateMaterial], Meta(min_length=1, max_length=PUSHED)]


class CertificateRefusal(Message, frozen=True, kw_only=True):
    """Why a service engine does not take a version; it goes on with the one before, if it has one."""

    version: CertificateVersion
    reason: Line


class CertificateState(Message, frozen=True, kw_only=True):
    """What a service engine holds, a version of a name, and what it was sent and holds to be wrong."""

    held: Annotated[list[CertificateVersion], Meta(max_length=HELD)] = []
    refused: Annotated[list[CertificateRefusal], Meta(max_length=HELD)] = []


def material_sha256(chain: str, key: str) -> str:
    """The SHA-256 of a certificate as it is delivered: of its chain and behind that its key, both in PEM."""
    return hashlib.sha256((chain + key).encode()).hexdigest()


class CertificatePut(Redacted, Message, frozen=True, kw_only=True):
    """A certificate as an operator puts it: the server's and those that lead to its root, and the server's private key.

    `force` takes one that is not valid now.
    """

    chain: Annotated[str, Meta(max_length=2 * CHAIN_CHARS)]
    key: Annotated[str, Meta(max_length=2 * KEY_CHARS), _WRITE_ONLY]
    force: bool = False


class CertificateStored(Message, frozen=True, kw_only=True):
    """A certificate was stored as `version`; `service_engines` that are to serve it are sent it."""

    name: Id
    version: Count
    changed: bool
    service_engines: Count = 0


class Resealed(Message, frozen=True, kw_only=True):
    """So many private keys were sealed with a new key; `closed` cannot be opened, and are as before."""

    certificates: Count
    closed: Count = 0


class CertificateEarlier(Message, frozen=True, kw_only=True):
    """A version of a certificate that was replaced: `fingerprint` is the SHA-256 of its DER."""

    version: Count
    fingerprint: Sha256
    not_after: UnixTime
    author: Line
    time: UnixTime


class CertificateUse(Message, frozen=True, kw_only=True):
    """The virtual services of a document that serve a certificate."""

    document: Id
    virtual_services: list[Id]


class Certificate(Message, frozen=True, kw_only=True):
    """A certificate as operators see it; its private key is never seen again.

    `names` are the host names and addresses that it is for, `fingerprint` is the SHA-256 of its DER, `certificates` how
    many its chain has. `needed` service engines are to serve it, `held` of them hold this version, `holders` are the
    first of all that do. `problem` says why it cannot be delivered.
    """

    name: Id
    version: Count
    names: list[str]
    subject: str
    issuer: str
    not_before: UnixTime
    not_after: UnixTime
    fingerprint: Sha256
    kind: str
    certificates: Count
    author: Line
    time: UnixTime
    earlier: list[CertificateEarlier] = []
    used_by: list[CertificateUse] = []
    needed: Count = 0
    held: Count = 0
    holders: Annotated[list[Id], Meta(max_length=HOLDERS)] = []
    problem: str = ""


class CertificateList(Message, frozen=True, kw_only=True):
    """A page of the certificates, by name; `next` asks for the page after it."""

    items: list[Certificate]
    next: Line = ""
