"""Look at etcd as it is: each member is asked for itself, and nothing is written."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, Literal, TypeVar

import msgspec
from cryptography import x509
from twisted.internet.defer import DeferredList

from avinet.aio import as_deferred
from avinet.errors import AvinetError, LocalError
from avinet.store.etcd.exchange import Exchange
from avinet.store.etcd.gateway import Full, refused
from avinet.store.etcd.health import ClusterHealth, MemberHealth, faults_of
from avinet.store.etcd.members import MutualTLS
from avinet.store.etcd.messages import (
    AlarmReply,
    AlarmRequest,
    Empty,
    Member,
    MemberList,
    PutRequest,
    RangeReply,
    RangeRequest,
    Reply,
    Request,
    RequestOp,
    StatusReply,
    TxnRequest,
    decoded,
    last_changed,
)
from avinet.store.etcd.origin import Origin
from avinet.store.health import Fault
from avinet.store.interface import end_of

R = TypeVar("R", bound=Reply)
SAMPLES = 5
_QUOTA = re.compile(rb"^etcd_server_quota_backend_bytes (\d{1,19}(?:\.\d{1,19})?(?:e\+\d{1,2})?)$", re.MULTILINE)
_IMPOSSIBLE = -1
"""No key was changed at this revision."""


async def check_cluster(
    reactor: Any, endpoints: Sequence[str], policy: MutualTLS, prefix: str, now: float, *, attempt_s: float
) -> ClusterHealth:
    """Look at all `endpoints` at once. `prefix` is that of the domain; nothing is written."""
    exchange = Exchange(reactor, policy, attempt_s)
    examined = [_Examination(reactor, exchange, each, prefix) for each in endpoints]
    try:
        await _all([each.run() for each in examined])
    finally:
        await exchange.close()
    listed = next((each.members for each in examined if each.members), [])
    names = {each.ID: each.name or f"{each.ID:x}" for each in listed}
    seen = [msgspec.structs.replace(each.seen, name=names.get(each.id, "")) for each in examined]
    answering = {each.id for each in examined if each.id and each.seen.write_ms is not None}
    health = ClusterHealth(
        members=sorted(names.values()),
        answering=len(answering),
        quorum=len(listed) // 2 + 1 if listed else 0,
        leader=next((each.name for each in seen if each.leader), ""),
        keys=next((each.keys for each in examined if each.keys is not None), None),
        state=_state(examined),
        alarms=sorted({f"{names.get(id, f'{id:x}')}: {alarm}" for each in examined for id, alarm in each.alarms}),
        ca_expires=min(each.not_valid_after_utc.timestamp() for each in policy.ca),
        certificate_expires=policy.credential.certificate.not_valid_after_utc.timestamp(),
        endpoints=seen,
    )
    own = policy.credential.certificate
    certificates = [("the CA of etcd", each) for each in policy.ca] + [("this node's certificate for etcd", own)]
    certificates += [(f"the certificate of {each.seen.endpoint}", each.shown) for each in examined if each.shown]
    unseen = [each for each in listed if each.ID not in {one.id for one in examined}]
    faults = faults_of(health, unseen, certificates, now, attempt_s=attempt_s)
    return msgspec.structs.replace(health, faults=[*faults, *_unusable(examined)])


def _state(examined: Sequence[_Examination]) -> Literal["", "none", "used", "arriving", "arrived", "left"]:
    origin = next((each.origin for each in examined if each.origin is not None), None)
    if origin is not None:
        return origin.state
    return "none" if any(each.keys is not None for each in examined) else ""


def _unusable(examined: Sequence[_Examination]) -> list[Fault]:
    for origin in [each.origin for each in examined if each.origin is not None][:1]:
        try:
            origin.check()
        except LocalError as error:
            return [Fault(error.what, error.hint)]
    return []


async def _all(work: Sequence[Awaitable[None]]) -> None:
    for _, result in await DeferredList([as_deferred(each) for each in work], consumeErrors=True):
        if result is not None:
            result.raiseException()


class _Examination:
    """What one endpoint is asked."""

    def __init__(self, reactor: Any, exchange: Exchange, endpoint: str, prefix: str) -> None:
        self._reactor = reactor
        self._exchange = exchange
        self._endpoint = endpoint
        self._prefix = prefix
        self.seen = MemberHealth(endpoint=endpoint)
        self.id = 0
        self.members: list[Member] = []
        self.alarms: list[tuple[int, str]] = []
        self.keys: int | None = None
        self.origin: Origin | None = None
        self.shown: x509.Certificate | None = None

    async def run(self) -> None:
        """Ask; what cannot be seen is left out, and the first reason is kept."""
        for step in (self._certificate, self._status, self._quota, self._cluster):
            await self._try(step)
        for step in (self._reads, self._writes):
            if not self.seen.why:
                await self._try(step)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except AvinetError as error:
            if not self.seen.why:
                self._learn(why=error.what.removeprefix(f"etcd at {self._endpoint}: "))

    def _learn(self, **news: Any) -> None:
        self.seen = msgspec.structs.replace(self.seen, **news)

    async def _certificate(self) -> None:
        chain = await self._exchange.chain(self._endpoint)
        self.shown = chain[0]
        self._learn(expires=chain[0].not_valid_after_utc.timestamp())

    async def _ask(self, path: str, request: Request, into: type[R]) -> R:
        status, body = await self._exchange.post(self._endpoint, path, request)
        if status != 200:
            raise refused(self._endpoint, status, body)
        return decoded(body, into)

    async def _status(self) -> None:
        found = await self._ask("/v3/maintenance/status", Empty(), StatusReply)
        self.id = found.header.member_id
        self._learn(
            id=f"{self.id:x}",
            version=found.version,
            leader=bool(found.leader) and found.leader == self.id,
            size=found.db_size,
            in_use=found.db_size_in_use,
            revision=found.header.revision,
            why=self.seen.why or ("" if found.leader else "it knows no leader"),
        )

    async def _quota(self) -> None:
        _, shown = await self._exchange.get(self._endpoint, "/metrics")
        if (match := _QUOTA.search(shown)) is not None:
            self._learn(quota=int(float(match[1])))

    async def _cluster(self) -> None:
        self.members = (await self._ask("/v3/cluster/member/list", Empty(), MemberList)).members
        alarms = (await self._ask("/v3/maintenance/alarm", AlarmRequest(), AlarmReply)).alarms
        self.alarms = [(each.member, each.alarm) for each in alarms]

    async def _reads(self) -> None:
        place = f"{self._prefix}/data/".encode()
        whole = RangeRequest(key=place, range_end=end_of(place), count_only=True)
        self.keys = (await self._ask("/v3/kv/range", whole, RangeReply)).count
        look = RangeRequest(key=f"{self._prefix}/origin".encode())
        found = (await self._ask("/v3/kv/range", look, RangeReply)).kvs
        self.origin = decoded(found[0].value, Origin) if found else None
        self._learn(read_ms=await self._median_ms("/v3/kv/range", look))

    async def _writes(self) -> None:
        """The members have to agree on a transaction that may write: that its condition cannot hold they see then."""
        nowhere = f"{self._prefix}/check".encode()
        put = RequestOp(request_put=PutRequest(key=nowhere, value=b""))
        request = TxnRequest(compare=[last_changed(nowhere, _IMPOSSIBLE)], success=[put])
        self._learn(write_ms=await self._median_ms("/v3/kv/txn", request))

    async def _median_ms(self, path: str, request: Request) -> float:
        taken = []
        for _ in range(SAMPLES):
            begun = self._reactor.seconds()
            with suppress(Full):  # the members have agreed on that
                await self._ask(path, request, Reply)
            taken.append((self._reactor.seconds() - begun) * 1000)
        return round(median(taken), 1)
