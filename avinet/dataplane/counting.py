"""Counting traffic: what happened between two reports, for each virtual service and each of its servers.

A request is counted once, with its server; what a virtual service did is the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from avinet.wire.report import ServerTraffic, ServiceTraffic, bucket_of, coarse, histogram

_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


@dataclass(slots=True)
class ServerCounter:
    """The running counts of one server in one virtual service, or of all that no server was dialled for.

    `connections` are open now and stay; the rest counts what happened.
    """

    connections: int = 0
    new_connections: int = 0
    requests: int = 0
    unserved: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: dict[str, int] = field(default_factory=dict)
    latency: dict[int, int] = field(default_factory=dict)
    said: int = 0
    """How many open connections the last report has told of."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell."""
        counted = self.new_connections or self.requests or self.bytes_in or self.bytes_out
        return not (self.connections or self.said or counted)

    def ended(self, seconds: float, status: int | None, *, served: bool = True) -> None:
        """A request, or a connection of a TCP service (`status` None), ended after `seconds`; no server took it or one
        has `served` it.
        """
        self.requests += 1
        self.unserved += not served
        bucket = bucket_of(seconds)
        self.latency[bucket] = self.latency.get(bucket, 0) + 1
        if status is not None:
            kind = _CLASSES.get(status // 100, "other")
            self.status[kind] = self.status.get(kind, 0) + 1

    def take(self, pool: str, server: str) -> ServerTraffic:
        """What happened since it was last taken."""
        self.said = self.connections
        taken = ServerTraffic(
            pool=pool,
            server=server,
            connections=self.connections,
            new_connections=self.new_connections,
            requests=self.requests,
            unserved=self.unserved,
            status=dict(sorted(self.status.items())),  # type: ignore[arg-type]
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            latency=coarse(self.latency.items()),
        )
        self.new_connections = self.requests = self.unserved = self.bytes_in = self.bytes_out = 0
        self.status, self.latency = {}, {}
        return taken


@dataclass
class Counter:
    """The running counts of one virtual service; `take` gives them as a message and begins anew.

    `connections` are open now and stay; the rest counts what happened.
    """

    name: str
    connections: int = 0
    new_connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    servers: dict[tuple[str, str], ServerCounter] = field(default_factory=dict)
    _said: int = 0

    def server(self, pool: str, name: str) -> ServerCounter:
        """The counts of one server; `name` is empty for what no server was dialled for."""
        found = self.servers.get((pool, name))
        if found is None:
            found = self.servers[pool, name] = ServerCounter()
        return found

    def dialled(self, pool: str, names: Sequence[str]) -> ServerCounter:
        """Count that these servers were dialled, one after the other; the counts of the last one."""
        for name in names:
            self.server(pool, name).new_connections += 1
        return self.server(pool, names[-1] if names else "")

    def take(self) -> ServiceTraffic | None:
        """What happened since it was last taken; None when that is nothing."""
        told = {key: each for key, each in self.servers.items() if not each.idle}
        if not (self.connections or self._said or self.new_connections or self.bytes_in or self.bytes_out or told):
            self.servers = told
            return None
        self._said = self.connections
        taken = ServiceTraffic(
            name=self.name,
            connections=self.connections,
            new_connections=self.new_connections,
            requests=sum(each.requests for each in told.values()),
            unserved=sum(each.unserved for each in told.values()),
            status=dict(sorted(_sum(each.status for each in told.values()).items())),  # type: ignore[arg-type]
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            latency=histogram(_sum(each.latency for each in told.values())),
            servers=[each.take(*key) for key, each in sorted(told.items()) if key[1]],
        )
        self.servers = {key: each for key, each in told.items() if key[1]}
        self.new_connections = self.bytes_in = self.bytes_out = 0
        return taken


K = TypeVar("K")


def _sum(counts: Iterable[dict[K, int]]) -> dict[K, int]:
    total: dict[K, int] = {}
    for each in counts:
        for key, count in each.items():
            total[key] = total.get(key, 0) + count
    return total
