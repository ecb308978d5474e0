"""The audit log as operators and service engines read it: records, the signed head, proofs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.wire.message import Count, Id, Message, Sha256, UnixTime
from avinet.wire.trust import Pem

PROOF_HASHES = 128
ProofHash = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{43}=$(?!\n)")]


class LogHead(Message, frozen=True, kw_only=True):
    """The log of `domain` has `size` records, and the root (RFC 9162 §2.1.1) of the tree over them is `root`.

    `signature` is base64 of ECDSA P-256 with SHA-256 over `head_text`, by the issuing CA `issuer`, in PEM.
    """

    domain: Id
    size: Count
    root: Sha256
    time: UnixTime
    signature: Annotated[str, Meta(max_length=256)]
    issuer: Pem


class LogProof(Message, frozen=True, kw_only=True):
    """The log has `size` records with this `root`, and begins with that of `first` (RFC 9162 §2.1.4)."""

    first: Count
    size: Count
    root: Sha256
    hashes: Annotated[list[ProofHash], Meta(max_length=PROOF_HASHES)] = []


class LogEntries(Message, frozen=True, kw_only=True):
    """Records from number `first` on, each as the exact text that is a leaf of the log."""

    first: Count
    items: list[str]


def head_text(domain: str, size: int, root: str, time: float) -> bytes:
    """What is signed of a head."""
    return f"avinet-log-head\n{domain}\n{size}\n{root}\n{time!r}\n".encode("ascii")
