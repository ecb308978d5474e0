"""What a certificate must be that an operator puts: stricter than what can be served, so that browsers take it, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from avinet.errors import Invalid
from avinet.trust.server_certificate import ServerCertificate, parse
from avinet.wire.certificates import CHAIN_CERTIFICATES, CHAIN_CHARS, KEY_CHARS, CertificatePut

_BEGUN = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_BROKEN = (hashes.MD5, hashes.SHA1)
NAMES = 100
"""The most names of a certificate."""


def checked(put: CertificatePut, now: float) -> ServerCertificate:
    """The certificate in `put`, as it is delivered: nothing but PEM, the key as PKCS #8; in thread, RSA takes its time.

    `now` is the time of day. Raises `Invalid`, which quotes nothing of a key.
    """
    _check_kinds(put)
    found = parse(put.chain, put.key)
    chain = "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in found.chain)
    key = found.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
    if len(found.chain) > CHAIN_CERTIFICATES or len(chain) > CHAIN_CHARS or len(key) > KEY_CHARS:
        raise Invalid(
            f"the chain has {len(found.chain)} certificates of {len(chain)} characters, the key has {len(key)}",
            hint=f"at most {CHAIN_CERTIFICATES} certificates of {CHAIN_CHARS} and {KEY_CHARS} characters are taken",
        )
    _check_names(found.chain[0])
    _check_signatures(found.chain)
    if not put.force:
        _check_times(found.chain, datetime.fromtimestamp(now, UTC))
    return ServerCertificate(chain, key, found.chain, found.key)


def _check_kinds(put: CertificatePut) -> None:
    """Raises `Invalid` where chain and key were mixed up: a key in a chain would be shown to whoever reads that."""
    if any(kind != "CERTIFICATE" for kind in _BEGUN.findall(put.chain)):
        raise Invalid(
            "the chain holds more than certificates", hint="give the key apart from it, and take everything else out"
        )
    kinds = [kind for kind in _BEGUN.findall(put.key) if kind != "EC PARAMETERS"]
    if len(kinds) != 1 or not kinds[0].endswith("PRIVATE KEY"):
        raise Invalid("the key is not one private key in PEM", hint="give it apart from the certificates")


def _check_names(leaf: x509.Certificate) -> None:
    """Raises `Invalid` for a certificate that no client takes for any name."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = x509.SubjectAlternativeName([])
    if not names_of(leaf):
        raise Invalid(
            "the certificate has no subject alternative names that are host names or IP addresses",
            hint="clients look at these alone: have it issued with them",
        )
    if len(list(found)) > NAMES:
        raise Invalid(f"the certificate has more than {NAMES} names", hint="put several certificates")
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(purposes):
        raise Invalid("the certificate is not for servers", hint="have it issued for the purpose serverAuth")


def _check_signatures(chain: Sequence[x509.Certificate]) -> None:
    """Raises `Invalid` for a signature that proves nothing any more; nobody looks at that of a root on itself."""
    for each in chain:
        if each.subject != each.issuer and isinstance(each.signature_hash_algorithm, _BROKEN):
            raise Invalid(
                f"{each.subject.rfc4514_string()[:200]} is signed with {each.signature_hash_algorithm.name}",
                hint="have it issued anew, with SHA-256",
            )


def _check_times(chain: Sequence[x509.Certificate], now: datetime) -> None:
    """Raises `Invalid` for what is not valid now."""
    for each in chain:
        name = each.subject.rfc4514_string()[:200] or "the certificate"
        if each.not_valid_after_utc <= now:
            raise Invalid(f"{name} expired at {each.not_valid_after_utc:%Y-%m-%d %H:%M}Z", hint="--force takes it")
        if each.not_valid_before_utc > now:
            raise Invalid(
                f"{name} is not valid before {each.not_valid_before_utc:%Y-%m-%d %H:%M}Z", hint="--force takes it"
            )


def names_of(leaf: x509.Certificate) -> list[str]:
    """The host names, in lower case, and IP addresses that a certificate is for (RFC 9525, section 3)."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(each) for each in found.get_values_for_type(x509.IPAddress)]
    return [*(each.lower() for each in found.get_values_for_type(x509.DNSName)), *addresses]
