"""What is seen of etcd, member by member, and what of that is wrong: values alone, nothing is asked here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
from cryptography import x509

from avinet.store.etcd.members import due
from avinet.store.etcd.messages import Member
from avinet.store.health import Fault
from avinet.units import format_bytes, format_seconds

FULL = 0.8
"""The part of its quota from which on a database is to be looked after."""
BEHIND = 1000
"""How many revisions a member may be behind another one, which was asked a moment later."""
OLDEST = (3, 4)


class MemberHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen at one endpoint; `why` when that is nothing. Sizes in bytes, times in seconds since 1970.

    `read_ms` and `write_ms` are medians: of linearizable reads, and of what the members agree on and nobody writes.
    """

    endpoint: str
    id: str = ""
    name: str = ""
    version: str = ""
    leader: bool = False
    read_ms: float | None = None
    write_ms: float | None = None
    size: int = 0
    in_use: int = 0
    quota: int = 0
    revision: int = 0
    expires: float | None = None
    why: str = ""


class ClusterHealth(msgspec.Struct, frozen=True, kw_only=True, tag_field="engine", tag="etcd"):
    """A store on etcd: of its `members` a `quorum` has to answer, and so many are.

    `keys` are those of the domain, and `state` says whether they are used here; empty where that cannot be seen.
    """

    members: list[str] = []
    answering: int = 0
    quorum: int = 0
    leader: str = ""
    keys: int | None = None
    state: Literal["", "none", "used", "arriving", "arrived", "left"] = ""
    alarms: list[str] = []
    ca_expires: float = 0.0
    certificate_expires: float = 0.0
    endpoints: list[MemberHealth] = []
    faults: list[Fault] = []


def faults_of(
    health: ClusterHealth,
    unseen: Sequence[Member],
    certificates: Sequence[tuple[str, x509.Certificate]],
    now: float,
    *,
    attempt_s: float,
) -> list[Fault]:
    """What is wrong. `unseen` are members that gave no answer; `certificates` are named as the text is to name them."""
    newest = max((each.revision for each in health.endpoints), default=0)
    return [
        *_silent(health),
        *_without_quorum(health),
        *map(_unseen, unseen),
        *(fault for each in health.endpoints for fault in _of_member(each, newest, attempt_s)),
        *map(_alarm, health.alarms),
        *(fault for what, certificate in certificates for fault in _expiring(what, certificate, now)),
    ]


def _silent(health: ClusterHealth) -> list[Fault]:
    return [
        Fault(
            f"etcd at {each.endpoint}: {each.why}",
            "see the log of etcd there, and whether this node reaches it" if not each.version else "",
        )
        for each in health.endpoints
        if each.why
    ]


def _without_quorum(health: ClusterHealth) -> list[Fault]:
    if not health.members:
        return [Fault("no member of etcd answers: nothing can be read or changed", "start etcd on its machines")]
    if health.answering < health.quorum and not any(each.write_ms for each in health.endpoints):
        return [
            Fault(
                f"{health.answering} of {len(health.members)} members take part, and {health.quorum} have to: "
                "nothing can be changed",
                "start the others, or mend the network between them",
            )
        ]
    return []


def _unseen(member: Member) -> Fault:
    return Fault(
        f"member {member.name or f'{member.ID:x}'} gave no answer at any of the endpoints in the settings",
        f"does etcd run there, and is {' or '.join(member.client_urls) or 'it'} among store.endpoints?",
    )


def _of_member(seen: MemberHealth, newest: int, attempt_s: float) -> Iterator[Fault]:
    if not seen.version:
        return
    if tuple(int(each) for each in re.findall(r"\d+", seen.version)[:2]) < OLDEST:
        yield Fault(f"etcd at {seen.endpoint} is {seen.version}", "avinet needs 3.4 or newer")
    if seen.write_ms is not None and seen.write_ms > attempt_s * 500:
        yield Fault(
            f"etcd at {seen.endpoint} takes {seen.write_ms:.0f} ms to agree on a change",
            "give it a disk of its own that syncs fast, or raise store.attempt_s",
        )
    if seen.quota and seen.size > FULL * seen.quota:
        yield Fault(
            f"the database at {seen.endpoint} has {format_bytes(seen.size)} of {format_bytes(seen.quota)}",
            f"{format_bytes(seen.in_use)} of it are in use: etcdctl defrag gives back the rest",
        )
    if newest - seen.revision > BEHIND:
        yield Fault(
            f"etcd at {seen.endpoint} is {newest - seen.revision} revisions behind",
            "it catches up by itself, unless its disk or its network is too slow",
        )


def _alarm(said: str) -> Fault:
    hint = "make room: etcdctl compact, etcdctl defrag, then etcdctl alarm disarm"
    return Fault(f"alarm of {said}", hint if "NOSPACE" in said else "its data are damaged: replace that member")


def _expiring(what: str, certificate: x509.Certificate, now: float) -> list[Fault]:
    ends = certificate.not_valid_after_utc.timestamp()
    hint = "avictl store certificates FOLDER --renew, where the CA of etcd is kept"
    if now > ends:
        return [Fault(f"{what} has expired", hint)]
    if due(certificate, datetime.fromtimestamp(now, UTC)):
        return [Fault(f"{what} expires in {format_seconds(ends - now)}", hint)]
    return []
