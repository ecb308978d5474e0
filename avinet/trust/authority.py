"""Certificates of a domain of trust: a root CA, an issuing CA under it, and node certificates that live for days.

Root and issuing CA are constrained to names below `DOMAIN.avinet.internal` (RFC 5280, section 4.2.1.10), and to no IP
address: they can vouch for nothing else, whatever becomes of their keys.

All root CAs of a domain have one name, so that the certificate in which a former root vouches for the key of a later
one is self-issued ("new with old", RFC 4210, section 4.4): who trusts the former root alone believes the later one by
it, and it does not count against the length of a path (RFC 5280, section 4.2.1.9).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from avinet.errors import LocalError
from avinet.ids import ID_PATTERN

SUFFIX = "avinet.internal"
ROOT_LIFE = timedelta(days=3650)
ISSUING_LIFE = timedelta(days=1825)
NODE_LIFE = timedelta(days=7)
BACKDATED = timedelta(minutes=5)
"""How far `not before` lies in the past, for peers whose clocks are a little late."""


def node_name(node: str, domain: str) -> str:
    """The TLS name of a node: the one name that its certificate has, whatever address it is dialled at."""
    return f"{node}.{domain}.{SUFFIX}"


@dataclass(frozen=True)
class Credential:
    """A certificate with its private key (ECDSA P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def public_line(self) -> str:
        """The public key as OpenSSH writes it."""
        return self.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")

    @property
    def key_pem(self) -> bytes:
        """The private key in PEM (PKCS #8), not encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @classmethod
    def from_pem(cls, certificate: bytes, key: bytes, source: str) -> Credential:
        """The pair in PEM; `source` names it in errors. Raises `LocalError`, also when the two do not fit."""
        try:
            parsed = x509.load_pem_x509_certificate(certificate)
            private = load_pem_private_key(key, password=None)
        except (ValueError, TypeError) as error:
            raise LocalError(f"{source} cannot be read: {error}") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or parsed.public_key() != private.public_key():
            raise LocalError(f"{source}: the certificate and the key do not belong together")
        return cls(parsed, private)


@dataclass(frozen=True)
class IssuingCA(Credential):
    """The issuing CA, under `root`; `crossed` are certificates in which former roots vouch for later ones."""

    root: x509.Certificate
    crossed: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What leads from a certificate of this CA to any root that its peers may trust; no root among it."""
        return (self.certificate, *self.crossed)

    @property
    def chain_pem(self) -> str:
        """The chain in PEM."""
        return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in self.chain)

    @property
    def pem(self) -> bytes:
        """All of it in PEM: the certificate, its key (not encrypted), the root, and what former roots vouch for."""
        above = b"".join(each.public_bytes(Encoding.PEM) for each in (self.root, *self.crossed))
        return self.certificate_pem + self.key_pem + above

    @classmethod
    def parse(cls, pem: bytes, source: str) -> IssuingCA:
        """An issuing CA from its PEM; `source` names it in errors. Raises `LocalError`."""
        pair = Credential.from_pem(pem, pem, source)
        _, *above = x509.load_pem_x509_certificates(pem)
        if not above:
            raise LocalError(f"{source} holds no root CA behind the issuing CA")
        return cls(pair.certificate, pair.key, above[0], tuple(above[1:]))


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-256 key pair."""
    return ec.generate_private_key(ec.SECP256R1())


def new_root(domain: str, now: datetime) -> Credential:
    """A self-signed root CA of a domain of trust."""
    key, name = new_key(), _root_name(domain)
    builder = certificate_builder(name, name, key.public_key(), now, now + ROOT_LIFE)
    return Credential(_authority(builder, domain, path_length=1).sign(key, hashes.SHA256()), key)


def cross(later: x509.Certificate, root: Credential, domain: str, now: datetime) -> x509.Certificate:
    """The certificate in which `root` vouches for the key of the `later` root CA, for as long as both are valid."""
    key = later.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    until = min(later.not_valid_after_utc, root.certificate.not_valid_after_utc)
    builder = certificate_builder(later.subject, root.certificate.subject, key, now, until)
    return _authority(_issued_by(builder, root), domain, path_length=1).sign(root.key, hashes.SHA256())


def new_issuing(root: Credential, domain: str, now: datetime, crossed: Sequence[x509.Certificate] = ()) -> IssuingCA:
    """An issuing CA, which signs node certificates and trust documents, so that the root's key can be taken away."""
    key = new_key()
    name = _name(f"avinet issuing CA of {domain}")
    until = min(now + ISSUING_LIFE, root.certificate.not_valid_after_utc)
    builder = certificate_builder(name, root.certificate.subject, key.public_key(), now, until)
    certificate = _authority(_issued_by(builder, root), domain, path_length=0).sign(root.key, hashes.SHA256())
    return IssuingCA(certificate, key, root.certificate, tuple(crossed))


def new_node(issuing: Credential, node: str, domain: str, now: datetime) -> Credential:
    """A node's certificate and a new key: one DNS name, server authentication, 7 days."""
    key = new_key()
    name = node_name(node, domain)
    until = min(now + NODE_LIFE, issuing.certificate.not_valid_after_utc)
    builder = certificate_builder(_name(node), issuing.certificate.subject, key.public_key(), now, until)
    builder = (
        _issued_by(builder, issuing)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(key_usage(digital_signature=True), critical=True)
    )
    return Credential(builder.sign(issuing.key, hashes.SHA256()), key)


def domain_of(root: x509.Certificate) -> str | None:
    """The domain of trust that `root` is a root CA of, by the names that it is constrained to; None if of none."""
    try:
        permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except (x509.ExtensionNotFound, ValueError):
        return None
    names = [each.value for each in permitted if isinstance(each, x509.DNSName)]
    domain = names[0].removesuffix(f".{SUFFIX}") if len(names) == len(permitted) == 1 else ""
    return domain if re.match(ID_PATTERN, domain) and root.subject == _root_name(domain) else None


def renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a third of the certificate's life is over."""
    begun = certificate.not_valid_before_utc
    return now >= begun + (certificate.not_valid_after_utc - begun) / 3


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _root_name(domain: str) -> x509.Name:
    return _name(f"avinet root CA of {domain}")


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    """What every certificate has, whoever signs it."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issued_by(builder: x509.CertificateBuilder, issuer: Credential) -> x509.CertificateBuilder:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(identifier, critical=False)


def _authority(builder: x509.CertificateBuilder, domain: str, *, path_length: int) -> x509.CertificateBuilder:
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(f"{domain}.{SUFFIX}")],
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(certificates=True, digital_signature=True), critical=True)
        .add_extension(constraints, critical=True)
    )


def key_usage(*, certificates: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    """What a key may be used for: to sign certificates (and lists of revoked ones), or other things."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
