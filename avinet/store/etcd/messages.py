"""What etcd's JSON gateway is asked and answers: the messages of `etcdserver/api/v3` that are used here.

The gateway ignores a field that it does not know, so that a condition that is misspelt would be none. Hence nothing is
written but by these types. Bytes are base64 in JSON, and 64-bit numbers are strings in what it answers.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from avinet.errors import PeerError

R = TypeVar("R")


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of what is asked."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The base of what is answered: fields that are not named here are passed over, those that are 0 are left out."""


class RangeRequest(Request, frozen=True):
    """The keys from `key` up to `range_end`, `key` alone without it; as they were at `revision`, if that is not 0."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    keys_only: bool = False
    count_only: bool = False


class PutRequest(Request, frozen=True):
    """Set a key."""

    key: bytes
    value: bytes
    lease: int = 0


class DeleteRangeRequest(Request, frozen=True):
    """Remove the keys from `key` up to `range_end`; `key` alone without it."""

    key: bytes
    range_end: bytes = b""


class Compare(Request, frozen=True):
    """How the last change of `key`, or of all from `key` up to `range_end`, is to `mod_revision`; 0 for no such key."""

    key: bytes
    mod_revision: int
    range_end: bytes = b""
    target: Literal["", "MOD"] = ""
    result: Literal["", "EQUAL", "LESS"] = ""


def last_changed(key: bytes, revision: int) -> Compare:
    """The condition that the last change of `key` was at `revision`."""
    return Compare(key=key, mod_revision=revision, target="MOD", result="EQUAL")


def unchanged_since(place: bytes, range_end: bytes, revision: int) -> Compare:
    """The condition that none of the keys from `place` up to `range_end` was written after `revision`."""
    return Compare(key=place, range_end=range_end, mod_revision=revision + 1, target="MOD", result="LESS")


class RequestOp(Request, frozen=True):
    """One operation of a transaction: exactly one of these."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None
    request_txn: TxnRequest | None = None


class TxnRequest(Request, frozen=True):
    """If all of `compare` hold then `success` is done, else `failure`."""

    compare: list[Compare]
    success: list[RequestOp]
    failure: list[RequestOp] = []


class CompactionRequest(Request, frozen=True):
    """Forget the history up to `revision`."""

    revision: int


class LeaseGrantRequest(Request, frozen=True):
    """A lease of `TTL` seconds, numbered by whoever asks."""

    TTL: int
    ID: int


class LeaseRequest(Request, frozen=True):
    """What is to be done with one lease."""

    ID: int


class WatchCreateRequest(Request, frozen=True):
    """Events of the keys from `key` up to `range_end`, from `start_revision` on."""

    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool = False


class WatchRequest(Request, frozen=True):
    """One watch on one connection."""

    create_request: WatchCreateRequest


class Header(Reply, frozen=True):
    """In every answer: the revision of the store as this member knows it, and its term of raft."""

    revision: int = 0
    member_id: int = 0
    cluster_id: int = 0
    raft_term: int = 0


class KeyValue(Reply, frozen=True):
    """A key as it is, or was removed at `mod_revision`."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class RangeReply(Reply, frozen=True):
    """The keys that were asked for."""

    header: Header = Header()
    kvs: list[KeyValue] = []
    more: bool = False
    count: int = 0


class ResponseOp(Reply, frozen=True):
    """What an operation of a transaction came to."""

    response_range: RangeReply | None = None
    response_txn: TxnReply | None = None


class TxnReply(Reply, frozen=True):
    """What a transaction came to. A condition that did not hold leaves `succeeded` out."""

    header: Header = Header()
    succeeded: bool = False
    responses: list[ResponseOp] = []


class LeaseReply(Reply, frozen=True):
    """A lease; `TTL` is 0 or less where it has ended."""

    header: Header = Header()
    ID: int = 0
    TTL: int = 0


class Event(Reply, frozen=True):
    """A change of a key."""

    kv: KeyValue
    type: Literal["PUT", "DELETE"] = "PUT"


class WatchReply(Reply, frozen=True):
    """Events in order, whole revisions; or the end: with `compact_revision`, the history before that is gone."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[Event] = []


class Fault(Reply, frozen=True):
    """What etcd refuses, in its words, with a status of gRPC."""

    error: str = ""
    message: str = ""
    code: int = 2


class Streamed(Reply, frozen=True):
    """One line of an answer that is a stream. In some versions the reason of an end is an object of its own."""

    result: msgspec.Raw = msgspec.Raw(b"")
    error: Any = None


class AlarmRequest(Request, frozen=True):
    """What is to be done with the alarms."""

    action: Literal["GET"] = "GET"


class Alarm(Reply, frozen=True, rename={"member": "memberID"}):
    """What `member` calls for an operator with: `NOSPACE`, `CORRUPT`."""

    member: int = 0
    alarm: str = ""


class AlarmReply(Reply, frozen=True):
    """The alarms that were raised and not disarmed."""

    header: Header = Header()
    alarms: list[Alarm] = []


class StatusReply(
    Reply, frozen=True, rename={"db_size": "dbSize", "db_size_in_use": "dbSizeInUse", "raft_term": "raftTerm"}
):
    """A member as it sees itself; sizes in bytes."""

    header: Header = Header()
    version: str = ""
    db_size: int = 0
    db_size_in_use: int = 0
    leader: int = 0
    raft_term: int = 0
    errors: list[str] = []


class Member(Reply, frozen=True, rename={"client_urls": "clientURLs"}):
    """A member of the cluster."""

    ID: int = 0
    name: str = ""
    client_urls: list[str] = []


class MemberList(Reply, frozen=True):
    """The members of the cluster."""

    header: Header = Header()
    members: list[Member] = []


class Empty(Request, frozen=True):
    """Nothing is said."""


def decoded(body: bytes | msgspec.Raw, into: type[R]) -> R:
    """What etcd has answered. Raises `PeerError` when it is nothing that is known here."""
    try:
        return msgspec.json.decode(body, type=into, strict=False)
    except msgspec.DecodeError as error:
        raise PeerError(f"etcd has answered what cannot be read: {error}", hint="is it etcd 3.4 or newer?") from error
