"""`avictl status`: the node and its fleet on one screen."""

from __future__ import annotations

import time

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.rollout import under_way
from avinet.cli.se import show_engines
from avinet.cli.shown import emit, fields, moment, since
from avinet.units import format_seconds
from avinet.wire.expiry import Expiry
from avinet.wire.fleet import EngineList, Status

SHOWN = 20
EXPIRING = 5


def _when(found: Expiry) -> str:
    left_s = found.not_after - time.time()
    return f"in {format_seconds(left_s)}" if left_s > 0 else "has expired"


@click.command()
@pass_context
def status(context: Context) -> None:
    """The node and its fleet on one screen."""
    found = context.node.ask("GET", "/v1/status", Status)
    if context.output != "table":
        emit(found, context.output)
        return
    counts = found.engines
    own = [each for each in found.expiries if each.kind == "node-certificate"]
    ending = [each for each in found.expiries if each.urgency != "none"]
    fields(
        [
            ("node", f"{found.node} of domain {found.domain}, avinet {found.version}, up {since(found.started)}"),
            ("doors", f"tunnels {', '.join(found.ssh)}; enrolment {', '.join(found.https)}"),
            ("certificate", ", ".join(f"valid until {moment(each.not_after)}, renewed by itself" for each in own)),
            ("expires", "; ".join(f"{each.kind} {each.name} {_when(each)}" for each in ending[:EXPIRING])),
            (
                "engines",
                f"{counts.connected} connected of {counts.enrolled} enrolled; {counts.expected} expected, "
                f"{counts.revoked} revoked",
            ),
            ("configuration", f"{counts.in_sync} run what they should; {counts.refused} refused it"),
            *(("roll-out", line) for line in under_way(found.rollouts)),
            ("servers", f"{found.servers_up} up, {found.servers_down} down"),
            ("store", f"has not answered for {found.store_silent_s:.0f} s" if found.store_silent_s else None),
            ("event loop", f"busy with one thing for at most {found.longest_stall_s * 1000:.0f} ms of late"),
        ]
    )
    engines = context.node.ask("GET", f"/v1/service-engines?limit={SHOWN}", EngineList)
    if engines.items:
        print()
        show_engines(engines.items)
    if engines.next:
        print("... see avictl se list for all of them")
