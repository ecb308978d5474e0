"""`avictl status`: the node and its fleet on one screen."""

from __future__ import annotations

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.se import show_engines
from avinet.cli.shown import emit, fields, moment, since
from avinet.wire.fleet import EngineList, Status

SHOWN = 20


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
            ("node", f"{found.node} of domain {found.domain}, avinet {found.version}, up {since(found.started)}"),
            ("doors", f"tunnels {', '.join(found.ssh)}; enrolment {', '.join(found.https)}"),
            ("certificate", f"valid until {moment(found.node_certificate_expires)}, renewed by itself"),
            (
                "engines",
                f"{counts.connected} connected of {counts.enrolled} enrolled; {counts.expected} expected, "
                f"{counts.revoked} revoked",
            ),
            ("configuration", f"{counts.in_sync} run what they should; {counts.refused} refused it"),
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
