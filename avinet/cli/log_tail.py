"""`avictl logs tail`: significant records of requests, as they come."""

from __future__ import annotations

import time
from typing import Any

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import with_query
from avinet.cli.shown import emit_line, escaped, one_line
from avinet.ids import parse_id
from avinet.wire.significant import SeenEvent, SeenHeldBack, SeenLeftOut, SeenRecord

MOST = 10_000
_HELD = {
    "throttle": "more than the limit",
    "full": "no room while there was no tunnel",
    "refused": "the node did not take them",
}


@click.command()
@click.argument("ids", nargs=-1, metavar="[SE]...")
@click.option("--label", "-l", help="Only of service engines that match, such as site=paris,room!=2.")
@click.option("--service", "-s", help="Only of this virtual service.")
@click.option("--lines", "-n", type=click.IntRange(0, MOST), default=20, show_default=True, help="How many at first.")
@click.option("--follow/--no-follow", "-f", default=True, help="Go on with what comes, until Ctrl-C (the default).")
@pass_context
def tail(
    context: Context, ids: tuple[str, ...], label: str | None, service: str | None, lines: int, follow: bool
) -> None:
    """Significant requests as they come: errors, slow ones, refused ones, those that went to another server.

    Which ones are is said in the configuration of their virtual service. This node shows those of the service engines
    that send them to it, since it was started, and the last ones only. What was held back is a line of its own.
    """
    target = with_query(
        "/v1/significant-logs",
        ids=",".join(parse_id(each) for each in ids),
        label=label or "",
        service=parse_id(service) if service else "",
        lines=str(lines),
        follow="1" if follow else "",
    )
    for event in context.node.stream("GET", target, SeenEvent):
        if context.output != "table":
            emit_line(event, context.output)
        else:
            print(one_line(escaped(line_of(event))), flush=True)


def line_of(event: SeenEvent) -> str:
    """An event in a line."""
    match event:
        case SeenLeftOut(events=count):
            return f"--  {count} not shown: they came faster than they were read"
        case SeenHeldBack():
            why, of = _HELD[event.reason], event.service or "other virtual services"
            return f"{_clock(event.received * 1000)}  {event.id}  {of}  --  {event.records} held back: {why}"
    return _record(event)


def _record(event: SeenRecord) -> str:
    found: dict[str, Any] = {"time": event.received * 1000, **event.record}

    def text(name: str) -> str:
        return str(found.get(name, ""))

    asked = f"{text('method')} {text('host')}{text('path')}" if text("method") else "connection"
    if text("query"):
        asked += f"?{text('query')}"
    parts = [
        _clock(found["time"]),
        event.id,
        text("service"),
        text("status") if text("status") not in ("0", "-1") else "-",
        asked,
        f"{text('total_ms')} ms",
        f"from {text('client')}",
        f"to {text('pool')}/{text('server')}" if text("server") else "to no server",
        f"ended {text('termination')}",
        f"retries {text('retries')}" if found.get("retries") else "",
        f"[{', '.join(event.why)}]",
    ]
    return "  ".join(each for each in parts if each)


def _clock(at_ms: Any) -> str:
    """A time in ms since 1970, in UTC."""
    try:
        whole, ms = divmod(int(at_ms), 1000)
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(whole)) + f".{ms:03d}Z"
    except (ValueError, OverflowError, OSError):
        return f"@{at_ms}"
