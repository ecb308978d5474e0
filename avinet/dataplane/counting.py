"""Counting traffic: what happened between two reports, for each virtual service."""

from __future__ import annotations

from dataclasses import dataclass, field

from avinet.wire.report import ServiceTraffic, bucket_of, histogram

_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


@dataclass
class Counter:
    """The running counts of one virtual service; `take` gives them as a message and begins anew.

    `connections` are open now and stay; the rest counts what happened.
    """

    name: str
    connections: int = 0
    new_connections: int = 0
    requests: int = 0
    unserved: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: dict[str, int] = field(default_factory=dict)
    latency: dict[int, int] = field(default_factory=dict)
    _said: int = 0

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

    def take(self) -> ServiceTraffic | None:
        """What happened since it was last taken; None when that is nothing."""
        counted = self.new_connections or self.requests or self.bytes_in or self.bytes_out
        if not (self.connections or self._said or counted):
            return None
        self._said = self.connections
        taken = ServiceTraffic(
            name=self.name,
            connections=self.connections,
            new_connections=self.new_connections,
            requests=self.requests,
            unserved=self.unserved,
            status=dict(sorted(self.status.items())),  # type: ignore[arg-type]
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            latency=histogram(self.latency),
        )
        self.new_connections = self.requests = self.unserved = self.bytes_in = self.bytes_out = 0
        self.status, self.latency = {}, {}
        return taken
