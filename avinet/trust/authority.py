"""Certificates of a domain of trust: a root CA, an issuing CA under it, and node certificates that live for days.

Root and issuing CA are constrained to names below `DOMAIN.avinet.internal` (RFC 5280, section 4.2.1.10), and to no IP
address: they can vouch for nothing else, whatever becomes of their keys.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from avinet.errors import LocalError, PeerError, Unauthenticated

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


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-256 key pair."""
    return ec.generate_private_key(ec.SECP256R1())


def new_root(domain: str, now: datetime) -> Credential:
    """The self-signed root CA of a new domain of trust."""
    key = new_key()
    name = _name(f"avinet root CA of {domain}")
    builder = _builder(name, name, key.public_key(), now, ROOT_LIFE)
    return Credential(_authority(builder, domain, key, path_length=1).sign(key, hashes.SHA256()), key)


def new_issuing(root: Credential, domain: str, now: datetime) -> Credential:
    """The issuing CA, which signs node certificates and trust documents, so that the root's key can be taken away."""
    key = new_key()
    name = _name(f"avinet issuing CA of {domain}")
    builder = _builder(name, root.certificate.subject, key.public_key(), now, ISSUING_LIFE)
    return Credential(
        _authority(_issued_by(builder, root), domain, key, path_length=0).sign(root.key, hashes.SHA256()), key
    )


def new_node(issuing: Credential, node: str, domain: str, now: datetime) -> Credential:
    """A node's certificate and a new key: one DNS name, server authentication, 7 days."""
    key = new_key()
    name = node_name(node, domain)
    builder = _builder(_name(node), issuing.certificate.subject, key.public_key(), now, NODE_LIFE)
    builder = (
        _issued_by(builder, issuing)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Credential(builder.sign(issuing.key, hashes.SHA256()), key)


def renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a third of the certificate's life is over."""
    begun = certificate.not_valid_before_utc
    return now >= begun + (certificate.not_valid_after_utc - begun) / 3


class Distrusted(PeerError):
    """The peer's certificate proves nothing here.

    `begins` is set when it will from then on, and not before: the authority that signed it says that it is at least
    that late.
    """

    def __init__(self, what: str, *, begins: datetime | None = None) -> None:
        super().__init__(what)
        self.begins = begins


def verify_node(
    chain: Sequence[x509.Certificate], name: str, roots: Sequence[x509.Certificate], at: datetime
) -> EllipticCurvePublicKey:
    """The key of the node called `name`, when `chain` (its own certificate first) holds under `roots` `at` a time.

    Checks the path as RFC 5280 does, constraints and purposes included. Raises `Distrusted`, saying what does not hold.
    """
    if not chain:
        raise Distrusted("it has shown no certificate")
    leaf = chain[0]
    reason = _path_error(chain, name, roots, at)
    if reason is None:
        key = leaf.public_key()
        assert isinstance(key, EllipticCurvePublicKey)
        return key
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if at > ends and _path_error(chain, name, roots, ends) is None:
        raise Distrusted(f"its certificate expired at {ends:%Y-%m-%d %H:%M}Z, and here it is {at:%Y-%m-%d %H:%M}Z")
    if at < begins and _path_error(chain, name, roots, begins) is None:
        raise Distrusted(
            f"its certificate is valid from {begins:%Y-%m-%d %H:%M}Z, and here it is {at:%Y-%m-%d %H:%M}Z",
            begins=begins,
        )
    raise Distrusted(reason)


def _path_error(
    chain: Sequence[x509.Certificate], name: str, roots: Sequence[x509.Certificate], at: datetime
) -> str | None:
    leaf = chain[0]
    try:
        policy = PolicyBuilder().store(Store(list(roots))).time(at).max_chain_depth(1)
        policy.build_server_verifier(x509.DNSName(name)).verify(leaf, list(chain[1:]))
        if not isinstance(leaf.public_key(), EllipticCurvePublicKey):
            return "its key is of another kind"
    except (VerificationError, ValueError, UnsupportedAlgorithm):
        names = _names(leaf)
        if names and name not in names:
            return f"its certificate is for {names[0][:100]}, not for {name}"
        if leaf.subject == leaf.issuer:
            return "its certificate is self-signed"
        return "its certificate is not signed by the root CA that is trusted here"
    return None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return found.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        return []


def verify_issuing(certificate: x509.Certificate, roots: Sequence[x509.Certificate], at: datetime) -> None:
    """Check that `certificate` is that of an issuing CA, signed by one of `roots`, both valid `at` a time.

    Raises `Unauthenticated`, saying what does not hold.
    """
    root = next((each for each in roots if _signed(certificate, each)), None)
    if root is None:
        raise Unauthenticated("the issuing CA is not signed by a root CA that is trusted here")
    if not _is_authority(certificate):
        raise Unauthenticated("the certificate is not that of an issuing CA")
    for each in (certificate, root):
        in_force(each, at, f"the certificate of {each.subject.rfc4514_string()}")


def in_force(certificate: x509.Certificate, at: datetime, what: str) -> None:
    """Raises `Unauthenticated` when `certificate` is not valid `at` that time."""
    if at < certificate.not_valid_before_utc:
        raise Unauthenticated(f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}Z")
    if at > certificate.not_valid_after_utc:
        raise Unauthenticated(f"{what} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}Z")


def parse_certificates(pem: bytes, source: str) -> list[x509.Certificate]:
    """The certificates in a PEM bundle. Raises `LocalError`."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise LocalError(f"{source} holds no certificate: {error}") from error


def chain_header(chain: Sequence[x509.Certificate]) -> str:
    """Certificates as the value of an HTTP header: base64 of DER, the leaf first, separated by commas."""
    return ",".join(base64.b64encode(each.public_bytes(Encoding.DER)).decode("ascii") for each in chain)


def parse_chain_header(value: str) -> list[x509.Certificate]:
    """The certificates in such a header. Raises `Unauthenticated`."""
    try:
        return [x509.load_der_x509_certificate(base64.b64decode(each, validate=True)) for each in value.split(",")[:4]]
    except ValueError as error:
        raise Unauthenticated("the certificates beside the signature are malformed") from error


def judged_at(clock: float, built: float, server_time: float, not_after: float) -> datetime:
    """The time at which validity is judged on a machine whose clock may be wrong.

    It is never before the image was built or before the last server time that was verified; a `clock` past the image's
    `not_after` counts as wrong and is replaced by that floor. All in seconds since 1970.
    """
    floor = max(built, server_time)
    return datetime.fromtimestamp(floor if clock > not_after else max(clock, floor), UTC)


def _signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _issued_by(builder: x509.CertificateBuilder, issuer: Credential) -> x509.CertificateBuilder:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(identifier, critical=False)


def _authority(
    builder: x509.CertificateBuilder, domain: str, key: ec.EllipticCurvePrivateKey, *, path_length: int
) -> x509.CertificateBuilder:
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(f"{domain}.{SUFFIX}")],
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(certificates=True, digital_signature=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, certificates: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
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
