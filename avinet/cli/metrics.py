"""`avictl metrics`: what was done for a virtual service over time, as service engines have reported it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import with_query
from avinet.cli.shown import emit, escaped, fields, moment, table
from avinet.errors import Invalid, NotFound
from avinet.ids import parse_id
from avinet.units import format_bytes, format_seconds, parse_seconds
from avinet.wire.rollups import RollupPoint, Rollups, RollupSeries

WIDTH = 60
"""How many steps a course has at most; with more of them, one character is several."""
HOLE = "·"
_BARS = "▁▂▃▄▅▆▇█"
_BY = {"server": "server", "se": "service-engine"}
_MEASURES: tuple[tuple[str, Callable[[RollupPoint], float], Callable[[float], str]], ...] = (
    ("requests/s", lambda each: each.requests_per_s, lambda value: f"{value:.3g}"),
    ("errors", lambda each: each.errors, lambda value: f"{value:.0f}"),
    ("p50", lambda each: each.p50_s, lambda value: _seconds(value)),
    ("p90", lambda each: each.p90_s, lambda value: _seconds(value)),
    ("p99", lambda each: each.p99_s, lambda value: _seconds(value)),
    ("connections", lambda each: each.connections, lambda value: f"{value:.3g}"),
    ("bytes in/s", lambda each: each.bytes_in_per_s, format_bytes),
    ("bytes out/s", lambda each: each.bytes_out_per_s, format_bytes),
)
_OF_REQUESTS = ("p50", "p90", "p99")
"""What there is none of where there was no request."""


def _whole_seconds(text: str, what: str) -> str:
    seconds = parse_seconds(text)
    if seconds < 1 or seconds % 1:
        raise Invalid(f"{what} must be whole seconds", hint="write it as 10s, 5m or 1h")
    return str(int(seconds))


@click.command()
@click.argument("virtual_service")
@click.option("--since", default="1h", show_default=True, help="How far back, such as 30m, 6h or 30d.")
@click.option("--until", default="", help="Up to so long ago, such as 1h (default: now).")
@click.option("--step", default="", help="What a point is of, such as 10s, 5m or 1h (default: as fits).")
@click.option("--by", type=click.Choice(list(_BY)), help="A series for each server, or for each service engine.")
@click.option("--se", "engines", default="", help="Only of these service engines: ID,ID.")
@click.option("--label", "-l", default="", help="Only of service engines with these labels: site=paris,room!=2.")
@click.option("--server", default="", help="Only of this server: POOL/SERVER.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True, help="How many series at most.")
@pass_context
def metrics(
    context: Context,
    virtual_service: str,
    since: str,
    until: str,
    step: str,
    by: str | None,
    engines: str,
    label: str,
    server: str,
    limit: int,
) -> None:
    """Requests, errors, latencies, connections and bytes of a virtual service over time.

    They are what service engines have reported: of all together, of some, or by server or service engine. Where nobody
    has reported there is no point, and a · in the course.
    """
    wanted = {
        "virtual_service": parse_id(virtual_service, "virtual service"),
        "last": _whole_seconds(since, "--since"),
        "until": str(int(time.time() - parse_seconds(until))) if until else "",
        "step": _whole_seconds(step, "--step") if step else "",
        "by": _BY[by] if by else "",
        "service_engine": engines,
        "label": label,
        "server": server,
        "limit": str(limit),
    }
    found = context.node.ask("GET", with_query("/v1/rollups", **wanted), Rollups)
    if context.output != "table":
        emit(found, context.output)
        return
    if not found.series:
        raise NotFound(
            f"nothing was reported of {virtual_service} in this time", hint="see its name with avictl se show ID"
        )
    print(
        f"{escaped(virtual_service)}, {moment(found.since)} to {moment(found.until)},"
        f" a point each {format_seconds(found.step_s)}"
    )
    print()
    if by is None:
        _show_measures(found, found.series[0])
    else:
        _show_series(found, by)


def _show_measures(found: Rollups, series: RollupSeries) -> None:
    total = series.total
    rows = []
    for name, value, shown in _MEASURES:
        points = [each for each in series.points if each.requests or name not in _OF_REQUESTS]
        values = [value(each) for each in points]
        cells = [shown(each) for each in (values[-1], value(total), min(values), max(values))] if values else ["-"] * 4
        rows.append((name, *cells, course(found, points, value)))
    table(["", "LAST", "ALL", "LEAST", "MOST", "COURSE"], rows)
    print()
    fields(
        [
            ("requests", total.requests),
            ("errors", f"{total.errors} ({_share(total)})"),
            ("status", " ".join(f"{kind}: {count}" for kind, count in total.status.items())),
            ("new connections", total.new_connections),
            ("bytes", f"{format_bytes(total.bytes_in)} in, {format_bytes(total.bytes_out)} out"),
            ("reports", total.reports),
        ]
    )


def _show_series(found: Rollups, by: str) -> None:
    table(
        [by.upper(), "REQUESTS", "PER S", "ERRORS", "P50", "P90", "P99", "CONNECTIONS", "IN", "OUT", "REQUESTS/S"],
        [
            (
                f"{each.pool}/{each.server}" if by == "server" else each.service_engine,
                each.total.requests,
                f"{each.total.requests_per_s:.3g}",
                f"{each.total.errors} ({_share(each.total)})",
                _seconds(each.total.p50_s),
                _seconds(each.total.p90_s),
                _seconds(each.total.p99_s),
                f"{each.total.connections:.3g}",
                format_bytes(each.total.bytes_in),
                format_bytes(each.total.bytes_out),
                course(found, each.points, lambda point: point.requests_per_s),
            )
            for each in found.series
        ],
    )
    if found.left_out:
        print(f"and {found.left_out} more with fewer requests: see --limit")


def _share(total: RollupPoint) -> str:
    return f"{100 * total.errors / total.requests:.2g} %" if total.requests else "-"


def _seconds(value: float) -> str:
    """A latency: three digits of it."""
    if value < 1:
        return f"{value * 1000:.3g}ms"
    return f"{value:.3g}s" if value < 100 else format_seconds(value)


def course(found: Rollups, points: Sequence[RollupPoint], value: Callable[[RollupPoint], float]) -> str:
    """A line of bars, a step each, or the highest of several; from nothing to the most. Holes are `HOLE`."""
    by_step = {round((each.time - found.since) / found.step_s): value(each) for each in points}
    steps = max(1, round((found.until - found.since) / found.step_s))
    together = -(-steps // WIDTH)
    most = max(by_step.values(), default=0.0)
    drawn = ""
    for first in range(0, steps, together):
        seen = [by_step[step] for step in range(first, first + together) if step in by_step]
        if not seen:
            drawn += HOLE
        else:
            height = max(seen) / most if most else 0.0
            drawn += _BARS[min(len(_BARS) - 1, int(height * len(_BARS)))]
    return drawn
