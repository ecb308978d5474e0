"""`avictl events`: the audit log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import PAGES, Node, with_query
from avinet.cli.shown import emit, escaped, fields, moment, one_line, table
from avinet.errors import PeerError
from avinet.units import parse_seconds
from avinet.wire.audit import LogEntries, LogHead
from avinet.wire.fleet import Event, EventList
from avinet.wire.message import decode
from avinet.wire.trust import SignedTrust, TrustDocument

FOLLOW_S = 1.0
PAGE = 500


@click.command()
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many records at most.")
@click.option("--after", default="", help="The cursor that the last call has printed.")
@click.option("--kind", default="", help="Only of this kind, such as enrolment or revoke.")
@click.option("--of", "id_", default="", help="Only of this service engine or image.")
@click.option("--since", default="", help="Only of this last time, such as 2h.")
@click.option("--alarms", is_flag=True, help="Only alarms.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--verify", is_flag=True, help="Check the whole log: no record is missing, changed or out of place.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="With --verify: the root CA certificate that is believed (default: those that the node names).",
)
@pass_context
def events(
    context: Context,
    limit: int,
    after: str,
    kind: str,
    id_: str,
    since: str,
    alarms: bool,
    follow: bool,
    verify: bool,
    root: Path | None,
) -> None:
    """The audit log, in order."""
    if verify:
        _verify(context, root)
        return
    begin = str(int(time.time() - parse_seconds(since))) if since else ""
    wanted = {"kind": kind, "id": id_, "since": begin, "alarms": "1" if alarms else ""}
    if follow:
        _follow(context, after, wanted)
        return
    found = _behind(context.node, after, limit, wanted)
    if context.output != "table":
        emit(found, context.output)
        return
    _show(found.items)
    if found.next:
        print(f"more: --after {one_line(escaped(found.next))}")


def _behind(node: Node, after: str, limit: int, wanted: dict[str, str]) -> EventList:
    """The next of the wanted records: what the node has looked at for one answer may have none among them."""
    for _ in range(PAGES):
        found = node.ask("GET", with_query("/v1/events", limit=str(limit), after=after, **wanted), EventList)
        if found.items or not found.next or found.next == after:
            return found
        after = found.next
    raise PeerError("the audit log does not end")


def _row(event: Event) -> tuple[str, ...]:
    mark = "ALARM" if event.alarm else "notice" if event.notice else ""
    return moment(event.time), event.kind, event.id or event.image, event.outcome, event.source, mark, event.fingerprint


def _show(found: Sequence[Event]) -> None:
    table(["TIME", "KIND", "SE OR IMAGE", "OUTCOME", "SOURCE", "", "KEY"], [_row(each) for each in found])


def _follow(context: Context, after: str, wanted: dict[str, str]) -> None:
    """Print each record in a line, those that are there first."""
    while True:
        found = context.node.ask("GET", with_query("/v1/events", limit=str(PAGE), after=after, **wanted), EventList)
        for event in found.items:
            if context.output == "table":
                print("  ".join(one_line(escaped(cell)) for cell in _row(event) if cell), flush=True)
            else:
                emit(event, context.output)
        after = found.seen or found.next or after
        if not found.next:
            time.sleep(FOLLOW_S)


def _entries(node: Node, size: int) -> Iterator[str]:
    first = 0
    while first < size:
        found = node.ask("GET", f"/v1/log/entries?first={first}&limit={PAGE}", LogEntries)
        if not found.items:
            return
        yield from found.items
        first += len(found.items)


def _verify(context: Context, root: Path | None) -> None:
    from avinet.enrolment.verify import verify_log
    from avinet.files import read_limited
    from avinet.trust.image import fingerprint
    from avinet.trust.path import parse_certificates

    node = context.node
    if root is not None:
        roots = parse_certificates(read_limited(root, 65536), str(root))
    else:
        signed = node.ask("GET", "/v1/trust", SignedTrust)
        document = decode(signed.document.encode("utf-8"), TrustDocument, limit_bytes=10**6, what="trust document")
        roots = parse_certificates("".join(document.roots).encode("ascii"), "the trust document")
    head = node.ask("GET", "/v1/log/head", LogHead)
    verify_log(head, _entries(node, head.size), roots)
    if context.output != "table":
        emit(head, context.output)
        return
    fields(
        [
            ("records", f"{head.size}, all there, none changed"),
            ("root", head.root),
            ("signed", f"by the issuing CA of {head.domain}, {moment(head.time)}"),
            ("root CA", ", ".join(fingerprint(each) for each in roots)),
        ]
    )
