"""What the store remembers of service engines, keys, images and what was done with them.

`engine/ID` is the record of a service engine, `key/FINGERPRINT` the id whose key it is, `image/ID` an image key,
`pending/ID/FINGERPRINT` a request that waits for an operator, `let-in/ID` how many an image key has let in alone,
`enrolment` the rules of the domain; each change writes one record below `audit/` in the same transaction.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from avinet.ids import random_name
from avinet.store.interface import Delete, Put
from avinet.trust import keys
from avinet.wire.fleet import EnrolmentPolicy


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value in the store. A field that a newer version wrote is ignored: a node may be older than its neighbour."""


class EngineRecord(Record, frozen=True, kw_only=True):
    """A service engine. `receipt` is the exact body that was answered, and is answered again to a retry.

    One that is expected has a claim that it must show, or is `approved`: by its key's fingerprint. `former` are the
    public keys that it had before; nobody can have them again, and whoever comes with one is noticed.
    """

    id: str
    state: Literal["expected", "enrolled", "revoked"]
    generation: int
    created: float
    labels: dict[str, str] = {}
    driver: str = "none"
    image: str = ""
    claim_sha256: str = ""
    claim_expires: float = 0.0
    approved: str = ""
    public_key: str = ""
    host_key: str = ""
    fingerprint: str = ""
    former: list[str] = []
    enrolled: float = 0.0
    receipt: str = ""
    management_address: str = ""
    hostname: str = ""


class ImageRecord(Record, frozen=True, kw_only=True):
    """An image key, by its public half."""

    id: str
    public_key: str
    not_after: float
    state: Literal["active", "retired"] = "active"


class PendingRecord(Record, frozen=True, kw_only=True):
    """A well-signed request without a claim, which waits since `since`; at `refused` an operator has refused it."""

    id: str
    generation: int
    fingerprint: str
    image: str
    source: str
    since: float
    hostname: str = ""
    management_address: str = ""
    version: str = ""
    refused: float = 0.0


class RulesRecord(Record, frozen=True, kw_only=True):
    """Who gets in, the same on every node; see `avinet.wire.fleet.EnrolmentRules`."""

    policy: EnrolmentPolicy = "claim"
    pending: int = 256
    pending_from_one: int = 32
    pending_s: float = 86400.0
    by_image: int = 1000


class AuditRecord(Record, frozen=True, kw_only=True):
    """One change, or one attempt that an operator should see: a `notice` at leisure, an `alarm` at once."""

    time: float
    node: str
    kind: str
    source: str = ""
    id: str = ""
    generation: int = 0
    image: str = ""
    fingerprint: str = ""
    outcome: str = ""
    notice: bool = False
    alarm: bool = False


ENGINES, AUDIT, IMAGES, PENDING, RATCHETS = b"engine/", b"audit/", b"image/", b"pending/", b"ratchet/"
LET_IN = b"let-in/"
RULES = b"enrolment"
FORMER = 8
"""How many earlier keys of a service engine are remembered."""


def engine_key(id: str) -> bytes:
    """Where the record of a service engine is."""
    return ENGINES + id.encode("ascii")


def owner_key(fingerprint: str) -> bytes:
    """Where the id of the service engine is whose key has this fingerprint."""
    return b"key/" + fingerprint.encode("ascii")


def with_former(record: EngineRecord, key: str) -> tuple[EngineRecord, list[Delete]]:
    """The record with one more key that it had, and the marks of those that are too many to be kept."""
    kept = [*(each for each in record.former if each != key), key] if key else list(record.former)
    gone, kept = kept[:-FORMER], kept[-FORMER:]
    return msgspec.structs.replace(record, former=kept), [Delete(owner_key(keys.fingerprint(each))) for each in gone]


def image_key(id: str) -> bytes:
    """Where the record of an image key is."""
    return IMAGES + id.encode("ascii")


def pending_key(id: str, fingerprint: str = "") -> bytes:
    """Where the request of this key waits to be `id`; without a key, what all that wait for it begin with."""
    return PENDING + id.encode("ascii") + b"/" + fingerprint.encode("ascii")


def ratchet_key(id: str) -> bytes:
    """Where the digests of the last secrets of a service engine are."""
    return RATCHETS + id.encode("ascii")


def let_in_key(image: str) -> bytes:
    """Where it is counted how many service engines an image key alone has let in."""
    return LET_IN + image.encode("ascii")


def put_record(key: bytes, record: Record) -> Put:
    """Writes `record` under `key`."""
    return Put(key, msgspec.json.encode(record))


def put_audit(record: AuditRecord) -> Put:
    """Writes an audit record under a key of its own; its order is that of its revision."""
    key = f"{int(record.time * 1000):015d}-{random_name(secrets.token_bytes, 10)}"
    return put_record(AUDIT + key.encode("ascii"), record)
