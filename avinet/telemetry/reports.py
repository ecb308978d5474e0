"""The service engine's side: a report at each interval, and at once when the health of a server changes.

A report that was not answered may have arrived: it is sent again as it was, with the number that it had, and counts
once. So counts are late, and neither lost nor doubled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.aio import Tasks
from avinet.dataplane.interface import Dataplane
from avinet.errors import AvinetError
from avinet.wire.certificates import CertificateState
from avinet.wire.config import ConfigState
from avinet.wire.report import SERVERS_LIMIT, ExportState, Report, ServerHealth, ServerTraffic, ServiceTraffic, merge

COALESCE_S = 0.2
"""How long a change of health waits for others that come with it."""
TRAFFIC_BYTES = 512 * 1024
"""About so much of a report is traffic at most; what is more comes with the next one."""
_BUCKET_BYTES, _ENTRY_BYTES = 12, 600
"""What a bucket takes in a report, seldom more, and what a virtual service or a server takes beside them."""

Send = Callable[[Report], Awaitable[None]]


def add_up(old: Sequence[ServiceTraffic], new: Sequence[ServiceTraffic]) -> list[ServiceTraffic]:
    """The traffic of two times together; open connections are those of the later one."""
    total = {each.name: each for each in old}
    for each in new:
        before = total.get(each.name)
        if before is not None:
            servers = {(one.pool, one.server): one for one in before.servers}
            for one in each.servers:
                key = one.pool, one.server
                servers[key] = _added(servers[key], one) if key in servers else one
            each = replace(_added(before, each), servers=list(servers.values()))
        total[each.name] = each
    return list(total.values())


T = TypeVar("T", ServiceTraffic, ServerTraffic)


def _added(before: T, after: T) -> T:
    status = dict(before.status)
    for kind, count in after.status.items():
        status[kind] = status.get(kind, 0) + count
    return replace(
        after,
        new_connections=before.new_connections + after.new_connections,
        requests=before.requests + after.requests,
        unserved=before.unserved + after.unserved,
        status=status,
        bytes_in=before.bytes_in + after.bytes_in,
        bytes_out=before.bytes_out + after.bytes_out,
        latency=merge([before.latency, after.latency]),
    )


def split(
    traffic: Sequence[ServiceTraffic], room_bytes: int = TRAFFIC_BYTES
) -> tuple[list[ServiceTraffic], list[ServiceTraffic]]:
    """What fits into a report, and what is for a later one: whole virtual services, or some of their servers."""
    now: list[ServiceTraffic] = []
    later: list[ServiceTraffic] = []
    for each in traffic:
        room_bytes -= _size(each)
        if room_bytes < 0:
            later.append(each)
            continue
        fit = 0
        for one in each.servers[:SERVERS_LIMIT]:
            if (room_bytes := room_bytes - _size(one)) < 0:
                break
            fit += 1
        if fit < len(each.servers):
            later.append(ServiceTraffic(name=each.name, connections=each.connections, servers=each.servers[fit:]))
            each = replace(each, servers=each.servers[:fit])
        now.append(each)
    return now, later


def _size(each: ServiceTraffic | ServerTraffic) -> int:
    return _ENTRY_BYTES + _BUCKET_BYTES * len(each.latency.buckets)


@dataclass(frozen=True)
class _Counted:
    """What a report says that counts once."""

    seq: int
    interval_s: float
    traffic: list[ServiceTraffic]
    lost: int


class Reporter:
    """Reports of `dataplane`, sent by whatever `attach` was last given; without it, counts add up.

    `config` and `certificates` tell the state of these, `wall` the time in seconds since 1970, `lost` how many records
    of requests were lost, since it was last asked, that the data plane has given.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dataplane: Dataplane,
        config: Callable[[], ConfigState],
        certificates: Callable[[], CertificateState],
        *,
        boot: str,
        interval_s: float,
        wall: Callable[[], float],
        tasks: Tasks,
        lost: Callable[[], int] = lambda: 0,
        exports: Callable[[], list[ExportState]] = list,
    ) -> None:
        self._clock = clock
        self._lost_since = lost
        self._exports = exports
        self._dataplane = dataplane
        self._config = config
        self._certificates = certificates
        self._boot = boot
        self._interval_s = interval_s
        self._wall = wall
        self._tasks = tasks
        self._send: Send | None = None
        self._seq = 0
        self._pending: list[ServiceTraffic] = []
        self._lost = 0
        self._unanswered: _Counted | None = None
        self._said: tuple[list[ServerHealth], ConfigState, CertificateState, list[ExportState]] | None = None
        self._timer: IDelayedCall | None = None
        self._counted = clock.seconds()
        self._sending = False
        dataplane.changed = self.changed

    def attach(self, send: Send | None) -> None:
        """Report through `send` from now on, all of the state first; None while there is no tunnel."""
        self._send = send
        self._said = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._clock.callLater(COALESCE_S, self._due) if send is not None else None

    def changed(self) -> None:
        """The health of a server has changed, or what is held of certificates."""
        if (
            self._timer is not None
            and self._timer.active()
            and self._timer.getTime() - self._clock.seconds() > COALESCE_S
        ):
            self._timer.reset(COALESCE_S)

    def _due(self) -> None:
        self._timer = self._clock.callLater(self._interval_s, self._due)
        if not self._sending:
            self._tasks.spawn(self.report(), "reporting")

    async def report(self) -> None:
        """Send one report now, and before it the one that had no answer. A failure is not an error: it is kept."""
        send = self._send
        if send is None:
            return
        self._sending = True
        try:
            self._pending = add_up(self._pending, await self._dataplane.traffic())
            self._lost += self._dataplane.lost_records() + self._lost_since()
            if self._unanswered is not None and not await self._said_so(send, self._unanswered):
                return
            await self._said_so(send, self._next())
        finally:
            self._sending = False

    def _next(self) -> _Counted:
        """All that is to be counted now and was in no report yet, as far as it fits."""
        now = self._clock.seconds()
        traffic, self._pending = split(self._pending)
        counted = _Counted(self._seq, round(now - self._counted, 1), traffic, self._lost)
        self._seq, self._counted, self._lost = self._seq + 1, now, 0
        return counted

    async def _said_so(self, send: Send, counted: _Counted) -> bool:
        """Send one report, with the state as it is now. Whether it was answered."""
        self._unanswered = counted
        health = sorted(self._dataplane.health(), key=lambda each: (each.pool, each.server))
        config, certificates = self._config(), self._certificates()
        exports = self._exports()
        said_health, said_config, said_certificates, said_exports = self._said or (None, None, None, [])
        report = Report(
            seq=counted.seq,
            boot=self._boot,
            time=round(self._wall(), 3),
            interval_s=counted.interval_s,
            health=health if health != said_health else None,
            config=config if config != said_config else None,
            certificates=certificates if certificates != said_certificates else None,
            exports=exports if exports != said_exports else None,
            traffic=counted.traffic,
            lost_records=counted.lost,
        )
        try:
            await send(report)
        except AvinetError:
            return False
        self._unanswered = None
        if self._send is send:
            self._said = (health, config, certificates, exports)
        return True

    def stop(self) -> None:
        """Report no more."""
        self.attach(None)
