"""`avictl events`: the audit log."""

from __future__ import annotations

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import with_query
from avinet.cli.shown import emit, escaped, moment, one_line, table
from avinet.wire.fleet import EventList


@click.command()
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many records.")
@click.option("--after", default="", help="The cursor that the last call has printed.")
@pass_context
def events(context: Context, limit: int, after: str) -> None:
    """The audit log, in order."""
    found = context.node.ask("GET", with_query("/v1/events", limit=str(limit), after=after), EventList)
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["TIME", "KIND", "SE OR IMAGE", "OUTCOME", "SOURCE", ""],
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
        print(f"more: avictl events --after {one_line(escaped(found.next))}")
