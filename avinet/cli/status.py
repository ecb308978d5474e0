"""`avictl status`, `doctor`, `events`: the fleet on one screen, what may be wrong, and what was done."""

from __future__ import annotations

import os
import time

import click

from avinet.cli.main import Context, pass_context
from avinet.cli.se import show_engines
from avinet.cli.shown import ago, emit, fields, moment, table
from avinet.errors import AvinetError
from avinet.units import format_seconds
from avinet.wire.fleet import EngineList, EventList, Status


@click.command()
@pass_context
def status(context: Context) -> None:
    """The node and its fleet on one screen."""
    found = context.node.ask("GET", "/v1/status", Status)
    if context.output != "table":
        emit(found, context.output)
        return
    counts = found.engines
    fields(
        [
            ("node", f"{found.node} of domain {found.domain}, avinet {found.version}, up {ago(found.started)[:-4]}"),
            ("doors", f"tunnels {', '.join(found.ssh)}; enrolment {', '.join(found.https)}"),
            ("certificate", f"expires {moment(found.node_certificate_expires)}, renewed by itself"),
            (
                "engines",
                f"{counts.connected} connected of {counts.enrolled} enrolled; {counts.expected} expected, "
                f"{counts.revoked} revoked",
            ),
            ("configuration", f"{counts.in_sync} run what they should; {counts.refused} refused it"),
            ("servers", f"{found.servers_up} up, {found.servers_down} down"),
        ]
    )
    engines = context.node.ask("GET", "/v1/service-engines?limit=20", EngineList)
    if engines.items:
        print()
        show_engines(engines.items)
    if engines.next:
        print("... see avictl se list for all of them")


@click.command()
@click.option("--limit", default=50, show_default=True, help="How many records.")
@click.option("--after", default="", help="The cursor that the last call has printed.")
@pass_context
def events(context: Context, limit: int, after: str) -> None:
    """The audit log, in order."""
    found = context.node.ask("GET", f"/v1/events?limit={limit}&after={after}", EventList)
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["TIME", "KIND", "SE", "OUTCOME", "SOURCE", ""],
        [
            (
                moment(each.time),
                each.kind,
                each.id or each.image,
                each.outcome,
                each.source,
                "ALARM" if each.alarm else "",
            )
            for each in found.items
        ],
    )
    if found.next:
        print(f"more: avictl events --after {found.next}")


@click.command()
@pass_context
def doctor(context: Context) -> None:
    """Check what usually goes wrong, and say it in plain words."""
    wrong = 0

    def check(what: str, good: bool, seen: str) -> None:
        nonlocal wrong
        wrong += not good
        print(f"{'ok ' if good else 'BAD'}  {what}: {seen}")

    path = context.node.path
    check("socket", os.path.exists(path), path if os.path.exists(path) else f"there is no {path}")
    try:
        begun = time.monotonic()
        found = context.node.ask("GET", "/v1/status", Status, timeout_s=10)
    except AvinetError as error:
        check("node", False, str(error))
    else:
        check("node", True, f"{found.node} answers in {(time.monotonic() - begun) * 1000:.0f} ms")
        left_s = found.node_certificate_expires - time.time()
        check("certificate", left_s > 86400, f"valid for {format_seconds(max(0, left_s))}")
        counts = found.engines
        check("engines", counts.connected == counts.enrolled, f"{counts.connected} of {counts.enrolled} connected")
        check("configuration", not counts.refused, f"{counts.in_sync} run what they should, {counts.refused} refused")
        check("servers", not found.servers_down, f"{found.servers_up} up, {found.servers_down} down")
    raise click.exceptions.Exit(1 if wrong else 0)
