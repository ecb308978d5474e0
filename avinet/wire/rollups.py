"""Rollups: what operators are told of traffic that service engines have reported, as series of points in time."""

from __future__ import annotations

from avinet.wire.message import Count, Message, UnixTime
from avinet.wire.report import Classes


class RollupPoint(Message, frozen=True, kw_only=True):
    """What was done in a step that begins at `time`, by all that reported in it: `reports` of them.

    Where nobody has reported there is no point: nothing is known. Rates are over the time that was reported of.
    `connections` is the mean of those that were open; for a server, of those that it served. `errors` are answers of
    5xx and, for TCP, connections that no server took (`unserved`). Latencies are those below which 50, 90 and 99 % of
    the requests were, within 1 %, and 5 % for a server.
    """

    time: UnixTime
    reports: Count = 0
    connections: float = 0.0
    new_connections: Count = 0
    requests: Count = 0
    requests_per_s: float = 0.0
    errors: Count = 0
    unserved: Count = 0
    status: Classes = {}
    bytes_in: Count = 0
    bytes_out: Count = 0
    bytes_in_per_s: float = 0.0
    bytes_out_per_s: float = 0.0
    p50_s: float = 0.0
    p90_s: float = 0.0
    p99_s: float = 0.0


class RollupSeries(Message, frozen=True, kw_only=True):
    """One series; what it is of is empty where it is the sum of all. `total` is all of the time together."""

    service_engine: str = ""
    virtual_service: str = ""
    pool: str = ""
    server: str = ""
    total: RollupPoint
    points: list[RollupPoint]


class Rollups(Message, frozen=True, kw_only=True):
    """Series from `since` until `until`, in steps of `step_s`, those with most requests first.

    `resolution_s` is that of the slots that a step is made of, `latest` until when there are any. `left_out` series
    are not shown.
    """

    since: UnixTime
    until: UnixTime
    step_s: Count
    resolution_s: Count
    latest: UnixTime
    series: list[RollupSeries]
    left_out: Count = 0
