"""Checks an audit log: every record in its place, under the root that an issuing CA of the domain has signed.

That it only grew since an earlier head takes a proof, and none of its records.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from cryptography import x509

from avinet.errors import AvinetError, Conflict
from avinet.trust.document import verify_document
from avinet.trust.merkle import Frontier, is_consistent, leaf
from avinet.wire.audit import LogHead, LogProof, head_text


class _Numbered(msgspec.Struct):
    seq: int


def verify_head(head: LogHead, roots: Sequence[x509.Certificate]) -> None:
    """Check that an issuing CA under one of `roots` has signed `head`. Raises `Conflict`.

    The signature is judged at the time of the head: a log outlives the certificates that it was signed with.
    """
    text = head_text(head.domain, head.size, head.root, head.time)
    try:
        verify_document(
            text, head.signature, head.issuer.encode("ascii"), roots, datetime.fromtimestamp(head.time, UTC)
        )
    except AvinetError as error:
        raise Conflict(f"the head of the audit log is not signed as it must be: {error.what}") from error


def verify_log(
    head: LogHead, records: Iterable[str], roots: Sequence[x509.Certificate], before: LogHead | None = None
) -> int:
    """How many records there are, if all of them are those that were signed for, and began with those of `before`.

    Raises `Conflict`, saying which are not.
    """
    verify_head(head, roots)
    if before is not None:
        _check_order(before, head)
    tree = Frontier()
    for record in records:
        if before is not None and tree.size == before.size:
            _check_beginning(before, tree.root().hex(), head)
        if tree.size == head.size:
            break  # it was sealed since
        try:
            seq = msgspec.json.decode(record, type=_Numbered).seq
        except msgspec.DecodeError as error:
            raise Conflict(f"record {tree.size} of the audit log cannot be read: {error}") from error
        if seq != tree.size:
            raise Conflict(f"the audit log has a gap: record {seq} stands where {tree.size} belongs")
        tree.add(leaf(record.encode("utf-8")))
    if tree.size < head.size:
        raise Conflict(f"the audit log is cut off: {tree.size} of {head.size} records are there")
    if tree.root().hex() != head.root:
        raise Conflict(
            f"the audit log was changed: its {head.size} records have the root {tree.root().hex()}, "
            f"and {head.root} was signed"
        )
    if before is not None and before.size == head.size:
        _check_beginning(before, head.root, head)
    return tree.size


def verify_growth(before: LogHead, head: LogHead, proof: LogProof, roots: Sequence[x509.Certificate]) -> None:
    """Check by `proof` that the log of `head` begins with that of `before` (RFC 9162 §2.1.4.2). Raises `Conflict`."""
    verify_head(head, roots)
    _check_order(before, head)
    if (proof.first, proof.size, proof.root) != (before.size, head.size, head.root):
        raise Conflict(f"the proof is of {proof.first} and {proof.size} records, not of {before.size} and {head.size}")
    hashes = [base64.b64decode(each) for each in proof.hashes]
    if not is_consistent(before.size, head.size, bytes.fromhex(before.root), bytes.fromhex(head.root), hashes):
        raise _rewritten(before, head)


def _check_order(before: LogHead, head: LogHead) -> None:
    if before.domain != head.domain:
        raise Conflict(f"this is the audit log of {head.domain}, and the head of before is of {before.domain}")
    if head.size < before.size:
        raise Conflict(f"the audit log was cut off: it had {before.size} records, and has {head.size}")


def _check_beginning(before: LogHead, root: str, head: LogHead) -> None:
    if root != before.root:
        raise _rewritten(before, head)


def _rewritten(before: LogHead, head: LogHead) -> Conflict:
    when = datetime.fromtimestamp(before.time, UTC).isoformat(timespec="seconds")
    return Conflict(
        f"the audit log was rewritten: its {head.size} records do not begin with the {before.size} that it had {when}"
    )
