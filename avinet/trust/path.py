"""Which certificates prove something here: paths as RFC 5280 has them, judged at a given time."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from avinet.errors import LocalError, PeerError, Unauthenticated

CHAIN = 8
"""The most certificates in a chain, roots aside: a node's, its issuing CA's, and those of roots by former ones."""


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
        # It counts what is self-issued against the length of a path (RFC 5280, section 4.2.1.9, does not): so those
        # that our roots vouch for are trust anchors to it.
        anchors = Store(list(believed(roots, chain[1:], at)))
        policy = PolicyBuilder().store(anchors).time(at).max_chain_depth(1)
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


def believed(
    roots: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], at: datetime | None
) -> Sequence[x509.Certificate]:
    """`roots`, and those in `chain` that they vouch for `at` a time (None: whenever), directly or by another.

    Only a root CA of the same name is believed by this (RFC 4210, section 4.4): who is under it is another matter.
    """
    found, left = list(roots), list(chain)
    while True:
        more = [
            each
            for each in left
            if each.subject == each.issuer
            and _is_authority(each)
            and any(signed_by(each, by) and (at is None or _is_in_force(by, at)) for by in found)
        ]
        if not more:
            return found
        found += more
        left = [each for each in left if each not in more]


def verify_issuing(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at: datetime
) -> EllipticCurvePublicKey:
    """The key of the issuing CA that `chain` begins with, when one of `roots` has signed it, all valid `at` a time.

    The rest of the chain are certificates in which former roots vouch for later ones. Raises `Unauthenticated`, saying
    what does not hold.
    """
    if not chain or not _is_authority(chain[0]):
        raise Unauthenticated("the certificate is not that of an issuing CA")
    signers = [each for each in believed(roots, chain[1:], at) if signed_by(chain[0], each)]
    if not signers and any(signed_by(chain[0], each) for each in believed(roots, chain[1:], None)):
        raise Unauthenticated("a root CA that leads to the issuing CA has expired, or is not valid yet")
    if not signers:
        raise Unauthenticated("the issuing CA is not signed by a root CA that is trusted here")
    root = next((each for each in signers if _is_in_force(each, at)), signers[0])
    for each in (chain[0], root):
        in_force(each, at, f"the certificate of {each.subject.rfc4514_string()}")
    key = chain[0].public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise Unauthenticated("the key of the issuing CA is of another kind")
    return key


def in_force(certificate: x509.Certificate, at: datetime, what: str) -> None:
    """Raises `Unauthenticated` when `certificate` is not valid `at` that time."""
    if at < certificate.not_valid_before_utc:
        raise Unauthenticated(f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}Z")
    if at > certificate.not_valid_after_utc:
        raise Unauthenticated(f"{what} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}Z")


def _is_in_force(certificate: x509.Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def parse_certificates(pem: bytes, source: str) -> list[x509.Certificate]:
    """The certificates in a PEM bundle. Raises `LocalError`."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise LocalError(f"{source} holds no certificate: {error}") from error


def chain_header(chain: Sequence[x509.Certificate]) -> str:
    """Certificates as the value of an HTTP header: base64 of DER, the leaf first, separated by commas."""
    return ",".join(map(_base64_of, chain))


@lru_cache(maxsize=16)
def _base64_of(certificate: x509.Certificate) -> str:
    """A node sends the same few with each receipt."""
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")


def parse_chain_header(value: str) -> list[x509.Certificate]:
    """The certificates in such a header. Raises `Unauthenticated`."""
    try:
        return [
            x509.load_der_x509_certificate(base64.b64decode(each, validate=True)) for each in value.split(",")[:CHAIN]
        ]
    except ValueError as error:
        raise Unauthenticated("the certificates beside the signature are malformed") from error


ASLEEP_S = 10 * 365 * 86400.0
"""How long a machine can have been off, with a clock that is right."""


def judged_at(clock: float, built: float, server_time: float, not_after: float) -> datetime:
    """The time at which validity is judged on a machine whose clock may be wrong.

    It is never before the image was built or before the last server time that was verified (0 for none). A `clock` that
    says what cannot be counts as wrong, and is replaced by that floor: past the image's `not_after` and, where a time
    was verified, past ten years after that. All in seconds since 1970.
    """
    floor = max(built, server_time)
    latest = max(not_after, server_time + ASLEEP_S) if server_time else not_after
    return datetime.fromtimestamp(floor if clock > latest else max(clock, floor), UTC)


def signed_by(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    """Whether the key of `by` has signed `certificate`, and the two name each other."""
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False
