"""What the store remembers of service engines, keys, images and what was done with them.

`engine/ID` is the record of a service engine, `key/FINGERPRINT` the id whose key it is, `image/ID` an image key; each
change writes one record below `audit/` in the same transaction.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from avinet.ids import random_name
from avinet.store.interface import Put


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value in the store. A field that a newer version wrote is ignored: a node may be older than its neighbour."""


class EngineRecord(Record, frozen=True, kw_only=True):
    """A service engine. `receipt` is the exact body that was answered, and is answered again to a retry."""

    id: str
    state: Literal["expected", "enrolled", "revoked"]
    generation: int
    created: float
    labels: dict[str, str] = {}
    driver: str = "none"
    image: str = ""
    claim_sha256: str = ""
    claim_expires: float = 0.0
    public_key: str = ""
    host_key: str = ""
    fingerprint: str = ""
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


class AuditRecord(Record, frozen=True, kw_only=True):
    """One change, or one attempt that an operator should see (`alarm`)."""

    time: float
    node: str
    kind: str
    source: str = ""
    id: str = ""
    generation: int = 0
    image: str = ""
    fingerprint: str = ""
    outcome: str = ""
    alarm: bool = False


ENGINES, AUDIT, IMAGES = b"engine/", b"audit/", b"image/"


def engine_key(id: str) -> bytes:
    """Where the record of a service engine is."""
    return ENGINES + id.encode("ascii")


def owner_key(fingerprint: str) -> bytes:
    """Where the id of the service engine is whose key has this fingerprint."""
    return b"key/" + fingerprint.encode("ascii")


def image_key(id: str) -> bytes:
    """Where the record of an image key is."""
    return IMAGES + id.encode("ascii")


def put_record(key: bytes, record: Record) -> Put:
    """Writes `record` under `key`."""
    return Put(key, msgspec.json.encode(record))


def put_audit(record: AuditRecord) -> Put:
    """Writes an audit record under a key of its own; its order is that of its revision."""
    key = f"{int(record.time * 1000):015d}-{random_name(secrets.token_bytes, 10)}"
    return put_record(AUDIT + key.encode("ascii"), record)
