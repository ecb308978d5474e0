"""Enrolment: challenge, request, receipt (RFC 9421 signatures travel in the HTTP headers, not here)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.message import Count, Fingerprint, Id, Line, Message, PublicKey, Revision, Seconds, UnixTime
from avinet.wire.trust import Node, Pem

REQUEST_LIMIT_BYTES = 16 * 1024
RECEIPT_LIMIT_BYTES = 256 * 1024
CHAIN_HEADER = "avinet-chain"

Nonce = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{16,128}$(?!\n)")]
Claim = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22,128}$(?!\n)")]


class Challenge(Message, frozen=True, kw_only=True):
    """A nonce that any node of the cluster accepts for `expires_in` seconds, and the node's clock."""

    nonce: Nonce
    server_time: UnixTime
    expires_in: Annotated[int, Meta(ge=1, le=3600)] = 120


class EnrolmentRequest(Message, frozen=True, kw_only=True):
    """What a new service engine publishes, once. `generation` and `claim` are those it was started with."""

    v: Literal[1] = 1
    id: Id
    generation: Annotated[int, Meta(ge=1, lt=2**31)]
    nonce: Nonce
    claim: Claim | None = None
    image: Id
    ssh_public_key: PublicKey
    ssh_host_public_key: PublicKey
    request_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{16,64}$(?!\n)")]
    management_address: Line = ""
    hostname: Line = ""
    version: Line = ""


class Waiting(Message, frozen=True, kw_only=True):
    """The node's answer 202: an operator has to let in the service engine with this key first; ask again then."""

    id: Id
    fingerprint: Fingerprint
    retry_after_s: Seconds


class Receipt(Message, frozen=True, kw_only=True):
    """The node's answer, the same for a retry; signed by the node over the response. The header `avinet-chain` of the
    response carries the node's certificate and what leads from it to a root.
    """

    v: Literal[1] = 1
    id: Id
    generation: Count
    fingerprint: Fingerprint
    revision: Revision
    request_id: str
    domain: Id
    epoch: Count
    roots: Annotated[list[Pem], Meta(min_length=1, max_length=4)]
    nodes: Annotated[list[Node], Meta(min_length=1, max_length=16)]
