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
COARSE = 5
"""So many buckets are one in what is kept of a server, of which there are many: within 5 % of the exact percentile."""
SERVERS_LIMIT = 1000
"""The servers of one virtual service in a report; of more, some come with the next one."""
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

    def percentile_s(self, fraction: float, width: int = 1) -> float:
        """The latency in seconds below which `fraction` (0–1) of the values lie; 0.0 when empty.

        Within 1 %, or 5 % where the buckets are `COARSE`, which is then their `width`.
        """
        total = self.count
        rank = fraction * (total - 1)
        seen = 0
        for index, count in self.buckets:
            seen += count
            if seen > rank:
                return _middle_s(index, width)
        return 0.0


def bucket_of(seconds: float) -> int:
    """The index of the bucket that a latency of `seconds` falls in."""
    microseconds = seconds * 1e6
    return min(math.ceil(math.log(microseconds) / _LOG_GROWTH), BUCKETS - 1) if microseconds > 1 else 0


def _middle_s(index: int, width: int) -> float:
    return 2 * BUCKET_GROWTH**index / (BUCKET_GROWTH**width + 1) / 1e6


def histogram(counts: dict[int, int]) -> Histogram:
    """A histogram from counts by bucket index."""
    return Histogram(buckets=sorted((index, count) for index, count in counts.items() if count))


def coarse(counts: Iterable[tuple[int, int]]) -> Histogram:
    """A histogram of counts by bucket index in which `COARSE` buckets are one; it has the index of the last of them."""
    found: dict[int, int] = {}
    for index, count in counts:
        last = min(-(-index // COARSE) * COARSE, BUCKETS - COARSE)
        found[last] = found.get(last, 0) + count
    return histogram(found)


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


Classes = dict[Literal["1xx", "2xx", "3xx", "4xx", "5xx", "other"], Count]


class ServerTraffic(Message, frozen=True, kw_only=True):
    """What one server did for one virtual service since the report before; see `ServiceTraffic`.

    `connections` are those that it serves now, `new_connections` those that were opened to it, or tried; where several
    virtual services share its pool, HAProxy does not say for which: they count for the first one. All else is of the
    requests for which it was dialled last. `latency` is `coarse`.
    """

    pool: Id
    server: Id
    connections: Count = 0
    new_connections: Count = 0
    requests: Count = 0
    unserved: Count = 0
    status: Classes = {}
    bytes_in: Count = 0
    bytes_out: Count = 0
    latency: Histogram = Histogram()


class ServiceTraffic(Message, frozen=True, kw_only=True):
    """What one virtual service did since the report before: counts, but for `connections`, which are open now.

    `status` counts responses by class (`2xx`); for TCP it is empty, `requests` counts connections, and `unserved` those
    of them that no server took. `servers` are those in which something happened; older service engines tell of none.
    """

    name: Id
    connections: Count = 0
    new_connections: Count = 0
    requests: Count = 0
    unserved: Count = 0
    status: Classes = {}
    bytes_in: Count = 0
    bytes_out: Count = 0
    latency: Histogram = Histogram()
    servers: Annotated[list[ServerTraffic], Meta(max_length=SERVERS_LIMIT)] = []


EXPORTS = 16
"""How many exports a service engine may have."""
ExportLoss = Literal["full", "refused", "connection", "parse", "dropped", "crash"]


class ExportState(Message, frozen=True, kw_only=True):
    """An export of request logs: records since the start of the process, and the bytes that wait.

    `lost` counts, by reason, the records that it has lost; `unknown` how often it was an unknown number. `problem` is
    what stands in its way now.
    """

    name: Id
    kind: Literal["syslog", "otlp"]
    what: Literal["all", "significant"]
    sent: Count = 0
    waiting_bytes: Count = 0
    lost: dict[ExportLoss, Count] = {}
    unknown: Count = 0
    problem: Line = ""


class Report(Message, frozen=True, kw_only=True):
    """`seq` counts the reports of one boot; one without an answer is sent again, with the same `seq`, `interval_s`,
    `traffic` and `lost_records`, which count once. What is unchanged of `health`, `config`, `certificates` and
    `exports` is left out (None); `traffic` lists only the virtual services in which something happened. `lost_records`
    counts records of requests that are missing, wherever they were lost.
    """

    seq: Count
    boot: Line
    time: UnixTime
    interval_s: float
    health: Annotated[list[ServerHealth], Meta(max_length=20000)] | None = None
    config: ConfigState | None = None
    certificates: CertificateState | None = None
    exports: Annotated[list[ExportState], Meta(max_length=EXPORTS)] | None = None
    traffic: Annotated[list[ServiceTraffic], Meta(max_length=1000)] = []
    lost_records: Count = 0
