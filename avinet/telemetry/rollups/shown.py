"""What is found of rollups, as it is told to operators; and what they may ask for."""

from __future__ import annotations

from collections.abc import Mapping

from avinet.errors import Invalid
from avinet.telemetry.rollups.reading import Found, Key, Point, Wanted
from avinet.telemetry.rollups.sums import (
    BYTES_IN,
    BYTES_OUT,
    CLASSES,
    COARSE_S,
    CONNECTIONS,
    FINE_S,
    NEW,
    REQUESTS,
    STATUS,
    UNSERVED,
    add,
)
from avinet.wire.report import COARSE, histogram
from avinet.wire.rollups import RollupPoint, Rollups, RollupSeries

SERIES, SERIES_DEFAULT = 500, 100
"""How many series an answer has at most, and when nothing else is asked for."""
STEPS = 2000
"""How many steps a series has at most."""
STEPS_DEFAULT = 120
_NICE_S = (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_ERROR = STATUS + CLASSES.index("5xx")
_MOST = 2**63 - 1


def step_of(since: float, until: float, step_s: int, now: float, fine_age_s: float) -> int:
    """The step for this time, the smallest fit one for 0. Raises `Invalid` for one that is not possible."""
    length_s, old = until - since, since < now - fine_age_s - COARSE_S
    if not step_s:
        least = COARSE_S if old else FINE_S
        fit = [each for each in _NICE_S if each >= least and length_s / each <= STEPS_DEFAULT]
        return fit[0] if fit else -(-int(length_s) // (STEPS_DEFAULT * _NICE_S[-1])) * _NICE_S[-1]
    if step_s % FINE_S or (step_s > COARSE_S and step_s % COARSE_S):
        raise Invalid(f"a step is a multiple of {FINE_S} s, or of {COARSE_S} s where it is longer than that")
    if old and step_s < COARSE_S:
        raise Invalid(
            f"what is older than {fine_age_s:g} s is kept by {COARSE_S} s only",
            hint=f"ask for a step of {COARSE_S}, or for a shorter time",
        )
    if length_s / step_s > STEPS:
        raise Invalid(f"a series has at most {STEPS} points", hint="ask for a shorter time or larger steps")
    return step_s


def shown(found: Found, wanted: Wanted, limit: int) -> Rollups:
    """The answer, with `limit` series: those with most requests."""
    totals = {key: _total(points) for key, points in found.series.items()}
    order = sorted(totals, key=lambda key: (-totals[key].sums.counts[REQUESTS], key))
    return Rollups(
        since=wanted.since,
        until=wanted.until,
        step_s=wanted.step_s,
        resolution_s=wanted.tier_s,
        latest=found.latest,
        series=[_series(key, found.series[key], totals[key], wanted) for key in order[:limit]],
        left_out=max(0, len(order) - limit),
    )


def _total(points: Mapping[int, Point]) -> Point:
    total = Point()
    for each in points.values():
        add(total.sums, each.sums)
        total.slots += each.slots
        total.reports += each.reports
    return total


def _series(key: Key, points: Mapping[int, Point], total: Point, wanted: Wanted) -> RollupSeries:
    engine, service, place = key
    pool, _, server = place.partition("/")
    width = COARSE if server else 1
    return RollupSeries(
        service_engine=engine,
        virtual_service=service,
        pool=pool,
        server=server,
        total=_point(wanted.since, total, width),
        points=[_point(at, each, width) for at, each in sorted(points.items())],
    )


def _point(at: int, point: Point, width: int) -> RollupPoint:
    counts, latency = [min(each, _MOST) for each in point.sums.counts], histogram(point.sums.latency)
    seconds = max(1, point.slots) * FINE_S
    return RollupPoint(
        time=at,
        reports=point.reports,
        connections=round(counts[CONNECTIONS] / max(1, point.slots), 2),
        new_connections=counts[NEW],
        requests=counts[REQUESTS],
        requests_per_s=round(counts[REQUESTS] / seconds, 3),
        errors=min(counts[_ERROR] + counts[UNSERVED], _MOST),
        unserved=counts[UNSERVED],
        status={kind: count for kind, count in zip(CLASSES, counts[STATUS:], strict=False) if count},  # type: ignore[misc]
        bytes_in=counts[BYTES_IN],
        bytes_out=counts[BYTES_OUT],
        bytes_in_per_s=round(counts[BYTES_IN] / seconds, 1),
        bytes_out_per_s=round(counts[BYTES_OUT] / seconds, 1),
        p50_s=float(f"{latency.percentile_s(0.5, width):.4g}"),
        p90_s=float(f"{latency.percentile_s(0.9, width):.4g}"),
        p99_s=float(f"{latency.percentile_s(0.99, width):.4g}"),
    )
