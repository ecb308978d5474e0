"""Checks an audit log whole: every record, in its place, under the root that an issuing CA of the domain has signed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from cryptography import x509

from avinet.errors import AvinetError, PeerError
from avinet.trust.document import verify_document
from avinet.trust.merkle import Frontier, leaf
from avinet.wire.audit import LogHead, head_text


class _Numbered(msgspec.Struct):
    seq: int


def verify_log(head: LogHead, records: Iterable[str], roots: Sequence[x509.Certificate]) -> int:
    """How many records there are, if all of them are those that were signed for. Raises `PeerError`, saying which not.

    The signature is judged at the time of the head: a log outlives the certificates that it was signed with.
    """
    text = head_text(head.domain, head.size, head.root, head.time)
    try:
        verify_document(
            text, head.signature, head.issuer.encode("ascii"), roots, datetime.fromtimestamp(head.time, UTC)
        )
    except AvinetError as error:
        raise PeerError(f"the head of the audit log is not signed as it must be: {error.what}") from error
    tree = Frontier()
    for record in records:
        if tree.size == head.size:
            break  # it was sealed since
        try:
            seq = msgspec.json.decode(record, type=_Numbered).seq
        except msgspec.DecodeError as error:
            raise PeerError(f"record {tree.size} of the audit log cannot be read: {error}") from error
        if seq != tree.size:
            raise PeerError(f"the audit log has a gap: record {seq} stands where {tree.size} belongs")
        tree.add(leaf(record.encode("utf-8")))
    if tree.size < head.size:
        raise PeerError(f"the audit log is cut off: {tree.size} of {head.size} records are there")
    if tree.root().hex() != head.root:
        raise PeerError(
            f"the audit log was changed: its {head.size} records have the root {tree.root().hex()}, "
            f"and {head.root} was signed"
        )
    return tree.size
