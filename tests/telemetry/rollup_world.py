"""Rollups in a folder of a test's own, on a clock that it moves; and what they should say, added up plainly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from avinet.aio import Tasks, as_deferred
from avinet.telemetry.counted import Counted
from avinet.telemetry.rollups.keeper import Rollups
from avinet.telemetry.rollups.reading import Found, Point, Wanted
from avinet.telemetry.rollups.settings import RollupSettings
from avinet.telemetry.rollups.sums import BYTES_OUT, CONNECTIONS, REQUESTS, STATUS
from avinet.wire.report import Report, ServerTraffic, ServiceTraffic, histogram

START = 1_800_000_000
"""A time at which a slot of each tier begins."""


@dataclass(frozen=True)
class Did:
    """What a server did in a report: requests, one of 5xx among them if `failed`, with latencies in these buckets."""

    requests: int
    failed: bool = False
    buckets: tuple[int, ...] = ()
    open: int = 0

    def counts(self) -> dict[str, Any]:
        status = {"2xx": self.requests - self.failed, "5xx": int(self.failed)}
        return {
            "connections": self.open,
            "requests": self.requests,
            "status": {kind: count for kind, count in status.items() if count},
            "bytes_out": 1000 * self.requests,
            "latency": histogram(Counter(self.buckets)),
        }


Services = dict[str, dict[str, Did]]
"""What was done, by virtual service and `POOL/SERVER`."""


def traffic(services: Services) -> list[ServiceTraffic]:
    """What a report says of it; a virtual service is the sum of its servers."""
    found = []
    for name, servers in services.items():
        whole = Did(
            sum(each.requests for each in servers.values()),
            False,
            tuple(bucket for each in servers.values() for bucket in each.buckets),
            sum(each.open for each in servers.values()),
        )
        failed = sum(each.failed for each in servers.values())
        status = {"2xx": whole.requests - failed, "5xx": failed}
        told = [
            ServerTraffic(pool=key.partition("/")[0], server=key.partition("/")[2], **each.counts())
            for key, each in servers.items()
        ]
        counts = whole.counts() | {"status": {kind: count for kind, count in status.items() if count}}
        found.append(ServiceTraffic(name=name, servers=told, **counts))
    return found


def shop(requests: int, **rest: Any) -> Services:
    """One server of one virtual service."""
    return {"shop": {"web/blue": Did(requests, **rest)}}


@dataclass
class World:
    """A node's rollups. `wall` is its time of day."""

    folder: Path
    settings: RollupSettings = field(default_factory=RollupSettings)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.set_back = 0.0
        self._seq: dict[str, int] = {}
        self.begin()

    def wall(self) -> float:
        return START + self.clock.seconds() - self.set_back

    def begin(self) -> None:
        """Start, as a node does."""
        self.tasks, self.counted = Tasks(), Counted()
        self.rollups = Rollups(self.clock, self.folder, self.settings, self.in_thread, self.wall)
        for id, (boot, seq) in self.result(self.rollups.start()).items():
            self.counted.is_new(id, boot, seq)
        self.tasks.spawn(self.rollups.keep(), "keeping")

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return execute(work)

    def result(self, awaitable: Any) -> Any:
        """What an awaitable gives, that needs no time."""
        got: list[Any] = []
        as_deferred(awaitable).addBoth(got.append)
        assert got, "it waits"
        if hasattr(got[0], "raiseException"):
            got[0].raiseException()
        return got[0]

    def end(self) -> None:
        """Stop in order."""
        self.result(self.rollups.stop())
        self.tasks.stop()

    def kill(self) -> None:
        """End without a word."""
        self.tasks.stop()

    def report(self, id: str, services: Services, seq: int | None = None) -> None:
        """A report, as the door for reports takes it."""
        self._seq[id] = self._seq.get(id, 0) + 1 if seq is None else seq
        said = Report(seq=self._seq[id], boot="b", time=0.0, interval_s=10.0, traffic=traffic(services))
        if self.counted.is_new(id, said.boot, said.seq):
            self.rollups.take(id, said)

    def pass_s(self, seconds: float) -> None:
        """Let time pass, in steps in which all that waits gets its turn."""
        self.clock.pump([0.5] * int(seconds * 2))

    def read(self, since: int, until: int, step_s: int = 10, **rest: Any) -> Found:
        """From `since` until `until`, in seconds after the start."""
        found: Found = self.result(self.rollups.read(Wanted(START + since, START + until, step_s, **rest)))
        return found


def requests(found: Found) -> dict[tuple[str, str, str], dict[int, int]]:
    """Requests by series and second after the start; holes are missing."""
    return {
        key: {at - START: point.sums.counts[REQUESTS] for at, point in sorted(points.items())}
        for key, points in found.series.items()
    }


def of(point: Point) -> tuple[int, int, int, float, dict[int, int]]:
    """What of a point is compared: requests, errors, bytes, open connections, latencies."""
    counts = point.sums.counts
    mean = counts[CONNECTIONS] / max(1, point.slots)
    return counts[REQUESTS], counts[STATUS + 4], counts[BYTES_OUT], mean, point.sums.latency


def plainly(slots: Iterable[Iterable[Did]]) -> tuple[int, int, int, float, dict[int, int]]:
    """The same of what was done in each of the slots that had a report."""
    dids = [each for slot in slots for each in slot]
    count = sum(1 for _ in slots)
    latency = Counter(bucket for each in dids for bucket in each.buckets)
    done = sum(each.requests for each in dids)
    return (
        done,
        sum(each.failed for each in dids),
        1000 * done,
        sum(each.open for each in dids) / max(1, count),
        latency,
    )
