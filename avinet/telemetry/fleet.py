"""The node's side: the latest state of each service engine, from its reports; bounded, and gone with a restart. What
single servers did is in the rollups.

A service engine is believed in what it says of itself, and not in how much that may be: what is beyond the bounds is
counted all the same, under the name `other`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from avinet.telemetry.reports import add_up
from avinet.wire.report import ExportState, Histogram, Report, ServerHealth, ServiceTraffic, merge

WINDOW_S = 60.0
"""How far back the traffic goes that is shown."""
SLOT_S = 10.0
"""The traffic of so long is kept as one: reports that come more often cost no more."""
OTHER = "other"
SERVICES = 500
"""The virtual services of a service engine that have a name here, as many as a configuration may have."""
SERVERS = 5000
"""The servers of a service engine that have a name here."""
BUCKETS = 10_000
"""The buckets of the latencies of all its virtual services in a slot; above that they are one histogram."""


def bounded(traffic: Sequence[ServiceTraffic]) -> list[ServiceTraffic]:
    """The same counts, by at most `SERVICES` names and in at most `BUCKETS` buckets; what is too much is `OTHER`."""
    if sum(len(each.latency.buckets) for each in traffic) > BUCKETS:
        whole = ServiceTraffic(name=OTHER, latency=merge(each.latency for each in traffic))
        traffic = add_up([msgspec.structs.replace(each, latency=Histogram()) for each in traffic], [whole])
    if len(traffic) <= SERVICES:
        return list(traffic)
    named = [each for each in traffic if each.name != OTHER]
    kept, rest = named[: SERVICES - 1], named[SERVICES - 1 :]
    one = [each for each in traffic if each.name == OTHER]
    for each in rest:
        one = add_up(one, [msgspec.structs.replace(each, name=OTHER)])
    return kept + one


_Health = msgspec.msgpack.Decoder(list[ServerHealth])
_Traffic = msgspec.msgpack.Decoder(list[ServiceTraffic])
_pack = msgspec.msgpack.Encoder().encode


class Latest:
    """What one service engine has reported: its latest state, and the traffic of the last minute.

    They are kept packed: there are many of them, and few are looked at.
    """

    __slots__ = ("_health", "_recent", "down", "exports", "lost_records", "reported", "up")

    def __init__(self) -> None:
        self.reported = 0.0
        self.lost_records = 0
        self.up = 0
        """How many servers are up, those without a name included."""
        self.down = 0
        """How many are down."""
        self.exports: list[ExportState] = []
        self._health = _pack([])
        self._recent: list[tuple[int, bytes]] = []

    def take(self, report: Report, now: float) -> None:
        """One more report; what it leaves out has not changed."""
        self.reported = now
        self.lost_records += report.lost_records
        if report.health is not None:
            self._take_health(report.health)
        if report.exports is not None:
            self.exports = report.exports
        if report.traffic:
            self._take_traffic(report.traffic, now)

    def _take_health(self, health: Iterable[ServerHealth]) -> None:
        """Another state of all servers; each has one, the last that is said."""
        each_once = {(each.pool, each.server): each for each in health}
        states = Counter(each.state for each in each_once.values())
        self.up, self.down = states["up"], states["down"]
        kept = list(each_once.values())[:SERVERS]
        left = len(each_once) - len(kept)
        if left:
            since = min(each.since for each in kept)
            more = ServerHealth(pool=OTHER, server=OTHER, state="unknown", since=since, why=f"{left} more servers")
            kept.append(more)
        self._health = _pack(kept)

    def _take_traffic(self, traffic: Sequence[ServiceTraffic], now: float) -> None:
        """What has been since the report before."""
        slot = int(now // SLOT_S)
        recent = [each for each in self._recent if slot - WINDOW_S // SLOT_S <= each[0]]
        so_far = _Traffic.decode(recent.pop()[1]) if recent and recent[-1][0] == slot else []
        services = [msgspec.structs.replace(each, servers=[]) if each.servers else each for each in traffic]
        recent.append((slot, _pack(bounded(add_up(so_far, services)))))
        self._recent = recent

    @property
    def health(self) -> list[ServerHealth]:
        """Every server of every pool, up to `SERVERS`."""
        return _Health.decode(self._health)

    def traffic(self, now: float) -> list[ServiceTraffic]:
        """The traffic that was reported in the last minute, a slot more or less."""
        total: list[ServiceTraffic] = []
        for slot, traffic in self._recent:
            if slot > (now - WINDOW_S) // SLOT_S:
                total = bounded(add_up(total, _Traffic.decode(traffic)))
        return total


class Fleet:
    """The latest reports by service engine. The id is the session's, never one that the report could say."""

    def __init__(self) -> None:
        self._latest: dict[str, Latest] = {}

    def take(self, id: str, report: Report, now: float) -> None:
        """One more report of service engine `id`; what it leaves out has not changed."""
        latest = self._latest.get(id)
        if latest is None:
            latest = self._latest[id] = Latest()
        latest.take(report, now)

    def get(self, id: str) -> Latest:
        """What service engine `id` has reported; nothing yet is an empty state."""
        return self._latest.get(id) or Latest()

    def forget(self, id: str) -> None:
        """Service engine `id` is no more."""
        self._latest.pop(id, None)

    def servers(self) -> tuple[int, int]:
        """How many servers are up and down, over the whole fleet."""
        latest = self._latest.values()
        return sum(each.up for each in latest), sum(each.down for each in latest)
