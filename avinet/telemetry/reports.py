"""The service engine's side: a report at each interval, and at once when the health of a server changes.

What a report could not deliver is merged into the next one, so that counts are late, never lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.aio import Tasks
from avinet.dataplane.interface import Dataplane
from avinet.errors import AvinetError
from avinet.wire.certificates import CertificateState
from avinet.wire.config import ConfigState
from avinet.wire.report import Report, ServerHealth, ServiceTraffic, merge

COALESCE_S = 0.2
"""How long a change of health waits for others that come with it."""

Send = Callable[[Report], Awaitable[None]]


def add_up(old: Sequence[ServiceTraffic], new: Sequence[ServiceTraffic]) -> list[ServiceTraffic]:
    """The traffic of two times together; open connections are those of the later one."""
    total = {each.name: each for each in old}
    for each in new:
        before = total.get(each.name)
        if before is not None:
            status = dict(before.status)
            for kind, count in each.status.items():
                status[kind] = status.get(kind, 0) + count
            each = ServiceTraffic(
                name=each.name,
                connections=each.connections,
                new_connections=before.new_connections + each.new_connections,
                requests=before.requests + each.requests,
                unserved=before.unserved + each.unserved,
                status=status,
                bytes_in=before.bytes_in + each.bytes_in,
                bytes_out=before.bytes_out + each.bytes_out,
                latency=merge([before.latency, each.latency]),
            )
        total[each.name] = each
    return list(total.values())


class Reporter:
    """Reports of `dataplane`, sent by whatever `attach` was last given; without it, counts add up.

    `config` and `certificates` tell the state of these, `wall` the time in seconds since 1970.
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
    ) -> None:
        self._clock = clock
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
        self._said: tuple[list[ServerHealth], ConfigState, CertificateState] | None = None
        self._timer: IDelayedCall | None = None
        self._reported = clock.seconds()
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
        """Send one report now. A failure keeps what it held for the next; it is not an error."""
        send = self._send
        if send is None:
            return
        self._sending = True
        try:
            self._pending = add_up(self._pending, await self._dataplane.traffic())
            self._lost += self._dataplane.lost_records()
            health, config = sorted(self._dataplane.health(), key=lambda each: (each.pool, each.server)), self._config()
            certificates = self._certificates()
            said_health, said_config, said_certificates = self._said or (None, None, None)
            now = self._clock.seconds()
            report = Report(
                seq=self._seq,
                boot=self._boot,
                time=round(self._wall(), 3),
                interval_s=round(now - self._reported, 1),
                health=health if health != said_health else None,
                config=config if config != said_config else None,
                certificates=certificates if certificates != said_certificates else None,
                traffic=self._pending,
                lost_records=self._lost,
            )
            self._seq += 1
            try:
                await send(report)
            except AvinetError:
                return
            if self._send is send:
                self._said = (health, config, certificates)
            self._pending, self._lost, self._reported = [], 0, now
        finally:
            self._sending = False

    def stop(self) -> None:
        """Report no more."""
        self.attach(None)
