"""Reports: what a service engine says of its data plane, every ten seconds and at each change of health."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.certificates import CertificateState
from avinet.wire.config import ConfigState
from avinet.wire.message import Count, Id, Line, Message, UnixTime

REPORT_LIMIT_BYTES = 1024 * 1024
BUCKET_GROWTH = 1.02
"""Buckets grow by 2 %, so that a percentile read from them is within 1 % of the exact one."""
_LOG_GROWTH = math.log(BUCKET_GROWTH)
BUCKETS = 2000
Bucket = Annotated[int, Meta(ge=0, lt=BUCKETS)]


class Histogram(Message, frozen=True, kw_only=True):
    """A mergeable latency histogram with log-spaced buckets; bucket i holds values in (1.02**(i-1), 1.02**i] µs.

    `buckets` maps the index to its count, sparse, as pairs in ascending order; 1 µs and less are bucket 0.
    """

    buckets: Annotated[list[tuple[Bucket, Count]], Meta(max_length=BUCKETS)] = []

    @property
    def count(self) -> int:
        """How many values it holds."""
        return sum(count for _, count in self.buckets)

    def percentile_s(self, fraction: float) -> float:
        """The latency in seconds below which `fraction` (0–1) of the values lie, within 1 %; 0.0 when empty."""
        total = self.count
        rank = fraction * (total - 1)
        seen = 0
        for index, count in self.buckets:
            seen += count
            if seen > rank:
                return _middle_s(index)
        return 0.0


def bucket_of(seconds: float) -> int:
    """The index of the bucket that a latency of `seconds` falls in."""
    microseconds = seconds * 1e6
    return min(math.ceil(math.log(microseconds) / _LOG_GROWTH), BUCKETS - 1) if microseconds > 1 else 0


def _middle_s(index: int) -> float:
    return 2 * BUCKET_GROWTH**index / (BUCKET_GROWTH + 1) / 1e6


def histogram(counts: dict[int, int]) -> Histogram:
    """A histogram from counts by bucket index."""
    return Histogram(buckets=sorted((index, count) for index, count in counts.items() if count))


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """The histogram of all the values in `histograms`."""
    counts: dict[int, int] = {}
    for each in histograms:
        for index, count in each.buckets:
            counts[index] = counts.get(index, 0) + count
    return histogram(counts)


class ServerHealth(Message, frozen=True, kw_only=True):
    """One server of one pool: up, down, or not checked; `since` when, and `why` in the load balancer's words."""

    pool: Id
    server: Id
    state: Literal["up", "down", "unknown"]
    since: UnixTime
    why: Line = ""


class ServiceTraffic(Message, frozen=True, kw_only=True):
    """What one virtual service did since the report before: counts, but for `connections`, which are open now.

    `status` counts responses by class (`2xx`); for TCP it is empty, `requests` counts connections, and `unserved` those
    of them that no server took.
    """

    name: Id
    connections: Count = 0
    new_connections: Count = 0
    requests: Count = 0
    unserved: Count = 0
    status: dict[Literal["1xx", "2xx", "3xx", "4xx", "5xx", "other"], Count] = {}
    bytes_in: Count = 0
    bytes_out: Count = 0
    latency: Histogram = Histogram()


class Report(Message, frozen=True, kw_only=True):
    """`seq` counts the reports of one boot. What is unchanged of `health`, `config` and `certificates` is left out
    (None); `traffic` lists only the virtual services in which something happened. `lost_records` counts log lines that
    were never counted.
    """

    seq: Count
    boot: Line
    time: UnixTime
    interval_s: float
    health: Annotated[list[ServerHealth], Meta(max_length=20000)] | None = None
    config: ConfigState | None = None
    certificates: CertificateState | None = None
    traffic: Annotated[list[ServiceTraffic], Meta(max_length=1000)] = []
    lost_records: Count = 0
