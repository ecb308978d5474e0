"""`avictl logs pull`: request logs are fetched into the archive of the node, and the terminal shows how far that is."""

from __future__ import annotations

import time

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.log_progress import follow
from avinet.cli.log_question import when
from avinet.cli.log_shown import failure, pulls_table, show_pull
from avinet.cli.node import with_query
from avinet.cli.shown import emit
from avinet.errors import Invalid
from avinet.ids import parse_id
from avinet.units import parse_bytes, parse_seconds
from avinet.wire.log_pulls import LogPull, LogPullList, LogPullOrder, LogPullSeen
from avinet.wire.message import convert
from avinet.wire.saved_query import When


def _ms(text: str | None) -> int | None:
    return None if text is None else convert(when(text), When, "the time").of(int(time.time() * 1000))


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID[,ID...]]...")
@click.option("--label", "-l", "selector", help="Of all that match, such as site=paris,room!=2.")
@click.option("--service", metavar="NAME", help="Only what has requests of this virtual service.")
@click.option("--since", help="From when on: 2h (ago), 2026-11-29, 2026-11-29T18:30:00Z (default: all there is).")
@click.option("--until", help="Until when, in the same form.")
@click.option("--again", is_flag=True, help="Also what the archive had before and has removed: too old, or too many.")
@click.option("--deadline", metavar="DURATION", default="1h", show_default=True, help="It ends when that is over.")
@click.option("--budget", metavar="SIZE", help="Fetch no more than this in all, such as 5GiB.")
@click.option("--detach", is_flag=True, help="Do not wait: print the pull's id.")
@pass_context
def pull(
    context: Context,
    ids: tuple[str, ...],
    selector: str | None,
    service: str | None,
    since: str | None,
    until: str | None,
    again: bool,
    deadline: str,
    budget: str | None,
    detach: bool,
) -> int:
    """Fetch the request logs of service engines into the archive of the node, where they can be asked.

    Each seals first what is open. What is in the archive already is not fetched again, nor is what was removed from it,
    but with --again. It goes on by itself, at the byte, when a tunnel was lost or the node was gone. Ctrl-C leaves it
    running.
    """
    if selector is not None and not selector.strip(" ,"):
        raise click.UsageError("the label expression is empty: say which service engines")
    named = [parse_id(each) for text in ids for each in text.split(",")]
    if bool(named) is bool(selector):
        raise click.UsageError("say which service engines: their ids, or --label")
    deadline_s = parse_seconds(deadline)
    plain = {
        "ids": named,
        "selector": selector or "",
        "service": service or "",
        "since_ms": _ms(since),
        "until_ms": _ms(until),
        "again": again,
        "deadline_s": deadline_s,
        "budget_bytes": None if budget is None else parse_bytes(budget),
    }
    order = convert(plain, LogPullOrder, "the pull")
    if order.since_ms is not None and order.until_ms is not None and order.since_ms >= order.until_ms:
        raise Invalid("the time ends before it begins")
    begun = context.node.ask("POST", "/v1/log-pulls", LogPull, order)
    if detach:
        if context.output == "table":
            print(begun.id)
        else:
            emit(begun, context.output)
        return 0
    return follow(context.node, context.output, begun.id)


@click.command()
@click.argument("id", required=False)
@click.option("--cancel", is_flag=True, help="End it; what was fetched stays.")
@click.option("--follow", "-f", "following", is_flag=True, help="Show how far it is, until it has ended.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many, without an id.")
@click.option("--before", default="", help="Those before the one with this id.")
@pass_context
def pulls(context: Context, id: str | None, cancel: bool, following: bool, limit: int, before: str) -> int:
    """The pulls, the latest first; or one, and how far it is on each service engine."""
    if id is None:
        if cancel or following:
            raise click.UsageError("say which pull")
        found = context.node.ask("GET", with_query("/v1/log-pulls", limit=str(limit), after=before), LogPullList)
        if context.output != "table":
            emit(found, context.output)
        else:
            pulls_table(found)
        return 0
    target = f"/v1/log-pulls/{parse_id(id, 'pull id')}"
    if cancel:
        context.node.request("POST", f"{target}/cancellation")
        if context.output == "table" and not following:
            print(f"cancelled: {id}")
    if following:
        return follow(context.node, context.output, id)
    if cancel:
        return 0
    seen = context.node.ask("GET", target, LogPullSeen)
    if context.output != "table":
        emit(seen, context.output)
    else:
        show_pull(seen)
    return failure(seen.pull)
