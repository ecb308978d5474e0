"""The trust document's signature: by the issuing CA, over the exact text, judged at a given time."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from avinet.errors import Unauthenticated
from avinet.trust.authority import Credential
from avinet.trust.path import CHAIN, verify_issuing

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def sign_document(text: bytes, issuing: Credential) -> str:
    """The issuing CA's signature over `text`: base64 of ECDSA P-256 with SHA-256 (DER)."""
    return base64.b64encode(issuing.key.sign(text, _ALGORITHM)).decode("ascii")


def verify_document(
    text: bytes, signature: str, issuer: bytes, roots: Sequence[x509.Certificate], at: datetime
) -> None:
    """Check that an issuing CA under one of `roots` has signed `text`; `issuer` is its chain in PEM.

    Raises `Unauthenticated`.
    """
    try:
        chain = x509.load_pem_x509_certificates(issuer)[:CHAIN]
        raw = base64.b64decode(signature, validate=True)
    except ValueError as error:
        raise Unauthenticated("the signature of the document is malformed") from error
    key = verify_issuing(chain, roots, at)
    try:
        key.verify(raw, text, _ALGORITHM)
    except InvalidSignature as error:
        raise Unauthenticated("the document is not what the issuing CA signed") from error
