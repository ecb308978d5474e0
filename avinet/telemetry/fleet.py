"""The node's side: the latest state of each service engine, from its reports; bounded, and gone with a restart.

A service engine is believed in what it says of itself, and not in how much that may be: what is beyond the bounds is
counted all the same, under the name `other`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from avinet.telemetry.reports import add_up
from avinet.wire.config import ConfigState
from avinet.wire.report import Histogram, Report, ServerHealth, ServiceTraffic, merge

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


@dataclass
class Latest:
    """What one service engine has reported: its latest state, and the traffic of the last minute."""

    reported: float = 0.0
    health: Sequence[ServerHealth] = ()
    config: ConfigState = field(default_factory=ConfigState)
    lost_records: int = 0
    servers: Counter[str] = field(default_factory=Counter)
    recent: dict[int, list[ServiceTraffic]] = field(default_factory=dict)

    def take_health(self, health: Iterable[ServerHealth]) -> None:
        """Another state of all servers; each has one, the last that is said."""
        each_once = {(each.pool, each.server): each for each in health}
        self.servers = Counter(each.state for each in each_once.values())
        kept = list(each_once.values())[:SERVERS]
        left = len(each_once) - len(kept)
        if left:
            since = min(each.since for each in kept)
            more = ServerHealth(pool=OTHER, server=OTHER, state="unknown", since=since, why=f"{left} more servers")
            kept.append(more)
        self.health = kept

    def take_traffic(self, traffic: Sequence[ServiceTraffic], now: float) -> None:
        """What has been since the report before."""
        slot = int(now // SLOT_S)
        self.recent[slot] = bounded(add_up(self.recent.get(slot, []), traffic))
        for old in [each for each in self.recent if each < slot - WINDOW_S // SLOT_S]:
            del self.recent[old]

    def traffic(self, now: float) -> list[ServiceTraffic]:
        """The traffic that was reported in the last minute, a slot more or less."""
        total: list[ServiceTraffic] = []
        for slot, traffic in self.recent.items():
            if slot > (now - WINDOW_S) // SLOT_S:
                total = bounded(add_up(total, traffic))
        return total

    def count(self, state: str) -> int:
        """How many servers are in `state`, those without a name included."""
        return self.servers[state]


class Fleet:
    """The latest reports by service engine. The id is the session's, never one that the report could say."""

    def __init__(self) -> None:
        self._latest: dict[str, Latest] = {}

    def take(self, id: str, report: Report, now: float) -> None:
        """One more report of service engine `id`; what it leaves out has not changed."""
        latest = self._latest.setdefault(id, Latest())
        latest.reported = now
        if report.health is not None:
            latest.take_health(report.health)
        if report.config is not None:
            latest.config = report.config
        latest.lost_records += report.lost_records
        if report.traffic:
            latest.take_traffic(report.traffic, now)

    def get(self, id: str) -> Latest:
        """What service engine `id` has reported; nothing yet is an empty state."""
        return self._latest.get(id) or Latest()

    def forget(self, id: str) -> None:
        """Service engine `id` is no more."""
        self._latest.pop(id, None)

    def servers(self) -> tuple[int, int]:
        """How many servers are up and down, over the whole fleet."""
        return sum(each.count("up") for each in self._latest.values()), sum(
            each.count("down") for each in self._latest.values()
        )
