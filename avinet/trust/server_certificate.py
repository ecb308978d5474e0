"""Certificates that virtual services serve: a chain and a private key that belong together, and the names they are for.

They are no part of the domain of trust: who has issued them is for their clients to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from avinet.errors import Invalid
from avinet.trust.path import signed_by

RSA_BITS = range(2048, 8193)
CURVES = ("secp256r1", "secp384r1", "secp521r1")
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class ServerCertificate:
    """A certificate, the certificates that lead to its root, and its private key.

    `chain_pem` and `key_pem` (PKCS #8, not encrypted) are as they were delivered; `chain` and `key` are these, parsed.
    """

    chain_pem: str
    key_pem: str = field(repr=False)
    chain: tuple[x509.Certificate, ...] = field(repr=False, compare=False)
    key: Key = field(repr=False, compare=False)

    @property
    def names(self) -> list[str]:
        """The DNS names in lower case, `*.suffix` among them; else the common name (RFC 6125, section 6.4.4)."""
        try:
            found = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            common = self.chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            return [str(each.value).lower() for each in common[-1:]]
        return [each.lower() for each in found.get_values_for_type(x509.DNSName)]

    @property
    def serial(self) -> int:
        """The serial number of the certificate."""
        return self.chain[0].serial_number


def parse(chain_pem: str, key_pem: str, *, known_good: bool = False) -> ServerCertificate:
    """The certificate in `chain_pem`, with the key in `key_pem`.

    One that is `known_good`, as it was checked before, is spared what takes long: whether RSA's primes are some. Raises
    `Invalid`, which quotes nothing of the key, when one of them cannot be read, or they do not belong together.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
        [each.extensions for each in chain]  # parsed when it is looked at
    except (ValueError, x509.DuplicateExtension) as error:
        raise Invalid(
            f"the certificate cannot be read: {error}", hint="it is PEM, the server's certificate first"
        ) from None
    _check_chain(chain)
    key = _key(key_pem, known_good)
    if chain[0].public_key() != key.public_key():
        raise Invalid(
            "the key is not that of the certificate", hint="the server's certificate stands first in the chain"
        )
    return ServerCertificate(chain_pem, key_pem, tuple(chain), key)


def _check_chain(chain: Sequence[x509.Certificate]) -> None:
    """Raises `Invalid` when one is not issued by the next."""
    for each, issuer in pairwise(chain):
        if not signed_by(each, issuer):
            raise Invalid(
                f"{each.subject.rfc4514_string()} is not issued by {issuer.subject.rfc4514_string()}, which follows it",
                hint="the server's certificate stands first, and behind each the one that issued it",
            )


def _key(pem: str, known_good: bool) -> Key:
    try:
        key = load_pem_private_key(pem.encode(), password=None, unsafe_skip_rsa_key_validation=known_good)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # what they say may quote what they were given
        raise Invalid(
            "the key cannot be read", hint="it is PEM, not encrypted: openssl pkcs8 -topk8 -nocrypt"
        ) from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size not in RSA_BITS:
            raise Invalid(f"the key has {key.key_size} bits", hint=f"RSA takes {RSA_BITS[0]} to {RSA_BITS[-1]}")
    elif not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise Invalid("the key is of a kind that browsers do not take", hint="take ECDSA P-256 or RSA")
    return key
