"""A certificate in the store: its chain as it is, its private key sealed for this version of it and no other."""

from __future__ import annotations

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from avinet.controller.certificates.checks import names_of
from avinet.enrolment.records import Record
from avinet.store.interface import Entry
from avinet.trust.image import fingerprint
from avinet.trust.sealing import Seal
from avinet.wire.certificates import Certificate, CertificateEarlier, CertificateVersion

CERTIFICATES, NAMES = b"certificate/", b"certificates"


class CertificateRecord(Record, frozen=True, kw_only=True):
    """A certificate: its chain and its key, sealed with the key `sealed_by`; `sha256` is that of what is delivered.

    `revision` is that of the store at which it was put, where it was written again since, and is the same; else 0.
    """

    version: int
    author: str
    time: float
    chain: str
    sha256: str
    sealed: str
    sealed_by: str
    revision: int = 0
    earlier: list[CertificateEarlier] = []

    @property
    def leaf(self) -> x509.Certificate:
        """The server's certificate."""
        return x509.load_pem_x509_certificate(self.chain.encode())


class NamesRecord(Record, frozen=True, kw_only=True):
    """The names of all certificates."""

    names: list[str] = []


class Kept:
    """A certificate as it is kept: its record at `revision`, the version for service engines, and what it is."""

    def __init__(self, name: str, record: CertificateRecord, revision: int) -> None:
        self.record = record
        self.revision = revision
        self.version = CertificateVersion(name=name, revision=record.revision or revision, sha256=record.sha256)
        leaf, *above = x509.load_pem_x509_certificates(record.chain.encode())
        self.not_after = leaf.not_valid_after_utc.timestamp()
        self.fingerprint = fingerprint(leaf)
        self.shown = Certificate(
            name=name,
            version=record.version,
            names=names_of(leaf),
            subject=leaf.subject.rfc4514_string(),
            issuer=leaf.issuer.rfc4514_string(),
            not_before=leaf.not_valid_before_utc.timestamp(),
            not_after=self.not_after,
            fingerprint=self.fingerprint,
            kind=_kind(leaf.public_key()),
            certificates=1 + len(above),
            author=record.author,
            time=record.time,
            earlier=record.earlier,
        )


def _kind(key: object) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return f"ECDSA {getattr(getattr(key, 'curve', None), 'name', '')}".strip()


def certificate_key(name: str) -> bytes:
    """Where a certificate is."""
    return CERTIFICATES + name.encode("ascii")


def names_in(entry: Entry | None) -> list[str]:
    """The names of all certificates, from their entry."""
    return msgspec.json.decode(entry.value, type=NamesRecord).names if entry else []


def about(name: str, record: CertificateRecord) -> str:
    """What the key is sealed for."""
    return f"certificate {name}, version {record.version}, {record.sha256}"


def sealed(name: str, record: CertificateRecord, key: bytes, seal: Seal) -> CertificateRecord:
    """The record with the private key `key` in it, sealed."""
    return msgspec.structs.replace(record, sealed=seal.seal(key, about(name, record)), sealed_by=seal.id)


def as_earlier(record: CertificateRecord) -> CertificateEarlier:
    """What is remembered of a version that is replaced."""
    leaf = record.leaf
    return CertificateEarlier(
        version=record.version,
        fingerprint=fingerprint(leaf),
        not_after=leaf.not_valid_after_utc.timestamp(),
        author=record.author,
        time=record.time,
    )
