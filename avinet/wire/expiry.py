"""What expires: certificates of virtual services, the node's own, issuing and root CAs; and how urgent that is."""

from __future__ import annotations

from typing import Literal

from avinet.wire.message import Message, UnixTime

ExpiryKind = Literal["certificate", "node-certificate", "issuing-ca", "root-ca"]
EXPIRIES = 128
"""The most that are shown at once."""
Urgency = Literal["none", "soon", "urgent", "expired"]


class Expiry(Message, frozen=True, kw_only=True):
    """`name` is that of a certificate or a node, else the beginning of a fingerprint; it is valid until `not_after`."""

    kind: ExpiryKind
    name: str
    not_after: UnixTime
    urgency: Urgency = "none"
