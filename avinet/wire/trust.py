"""The trust document: whom a service engine may believe, and where to find them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.wire.message import Address, Count, Id, Message, PublicKey

Pem = Annotated[str, Meta(max_length=16384)]
MOST_ROOTS = 4


class Node(Message, frozen=True, kw_only=True):
    """One controller: where it is dialled, and the keys by which it is known.

    `name` is its TLS name (`NODE.DOMAIN.avinet.internal`); `https` and `ssh` are the addresses of its doors.
    `avictlruser_keys` are the keys it logs in to service engines with, and signs its requests with.
    """

    id: Id
    name: str
    https: Annotated[list[Address], Meta(min_length=1, max_length=16)]
    ssh: Annotated[list[Address], Meta(min_length=1, max_length=16)]
    ssh_host_keys: Annotated[list[PublicKey], Meta(min_length=1, max_length=4)]
    avictlruser_keys: Annotated[list[PublicKey], Meta(min_length=1, max_length=4)]


class TrustDocument(Message, frozen=True, kw_only=True):
    """What the domain of trust says of itself. A service engine takes only an `epoch` higher than the one it has."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    epoch: Count
    domain: Id
    roots: Annotated[list[Pem], Meta(min_length=1, max_length=MOST_ROOTS)]
    nodes: Annotated[list[Node], Meta(min_length=1, max_length=16)]


class TrustHeld(Message, frozen=True, kw_only=True):
    """The epoch of the trust document that a service engine holds."""

    epoch: Count


class SignedTrust(Message, frozen=True, kw_only=True):
    """A trust document as the exact bytes that were signed (`document`, JSON text), with the issuing CA's signature.

    `signature` is base64 of ECDSA P-256 with SHA-256 over the UTF-8 of `document`; `issuer` is the issuing CA's
    certificate in PEM, which a root that is already trusted must have signed; behind it those in which former roots
    vouch for the one that did.
    """

    document: Annotated[str, Meta(max_length=262144)]
    signature: Annotated[str, Meta(max_length=256)]
    issuer: Pem
