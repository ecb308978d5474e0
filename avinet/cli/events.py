"""`avictl events`: the audit log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import PAGES, Node, with_query
from avinet.cli.shown import emit, escaped, fields, moment, one_line, table
from avinet.errors import Invalid, LocalError, PeerError
from avinet.units import parse_seconds
from avinet.wire.audit import LogEntries, LogHead, LogProof
from avinet.wire.fleet import Event, EventList
from avinet.wire.message import decode
from avinet.wire.trust import SignedTrust, TrustDocument

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

FOLLOW_S = 1.0
PAGE = 500
PROOFS = 10
HEAD_LIMIT_BYTES = 64 * 1024


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
    help="The root CA certificate that a check believes (default: those that the node names).",
)
@click.option(
    "--since-head",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check that the log begins with the one whose head is in this file, and keep its head of now there.",
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
    since_head: Path | None,
) -> None:
    """The audit log, in order."""
    if verify or since_head is not None:
        _check(context, root, since_head, whole=verify)
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


def _check(context: Context, root: Path | None, kept: Path | None, *, whole: bool) -> None:
    """Check the log, or what became of it since the head in `kept`, which is that of now when all is well."""
    from avinet.enrolment.verify import verify_growth, verify_head, verify_log
    from avinet.files import write_atomic
    from avinet.trust.image import fingerprint
    from avinet.wire.message import encode

    node = context.node
    before = _head_in(kept) if kept is not None and kept.exists() else None
    roots = _roots(node, root)
    shown = []
    if whole:
        head = node.ask("GET", "/v1/log/head", LogHead)
        verify_log(head, _entries(node, head.size), roots, before)
        shown.append(("records", f"{head.size}, all there, none changed"))
    elif before is not None:
        head, proof = _proved(node, before.size)
        verify_growth(before, head, proof, roots)
        shown.append(("records", str(head.size)))
    else:
        head = node.ask("GET", "/v1/log/head", LogHead)
        verify_head(head, roots)
        shown.append(("records", f"{head.size}, and nothing to compare them with yet"))
    if kept is not None:
        write_atomic(kept.absolute(), encode(head))
    if context.output != "table":
        emit(head, context.output)
        return
    if before is not None:
        shown.append(("begins with", f"the {before.size} records of {moment(before.time)}"))
    shown += [
        ("root", head.root),
        ("signed", f"by the issuing CA of {head.domain}, {moment(head.time)}"),
        ("root CA", ", ".join(fingerprint(each) for each in roots)),
    ]
    fields(shown)


def _head_in(path: Path) -> LogHead:
    from avinet.files import read_limited

    try:
        return decode(read_limited(path, HEAD_LIMIT_BYTES), LogHead, limit_bytes=HEAD_LIMIT_BYTES, what="head")
    except Invalid as error:
        raise LocalError(f"{path} is no head of an audit log: {error.what}", hint="name another file") from error


def _roots(node: Node, path: Path | None) -> Sequence[Certificate]:
    """The root CA certificates in `path`, or those that the node names."""
    from avinet.files import read_limited
    from avinet.trust.path import parse_certificates

    if path is not None:
        return parse_certificates(read_limited(path, 65536), str(path))
    signed = node.ask("GET", "/v1/trust", SignedTrust)
    document = decode(signed.document.encode("utf-8"), TrustDocument, limit_bytes=10**6, what="trust document")
    return parse_certificates("".join(document.roots).encode("ascii"), "the trust document")


def _proved(node: Node, first: int) -> tuple[LogHead, LogProof]:
    """The head of the log, and the proof from `first` records up to it; it may grow between the two."""
    for _ in range(PROOFS):
        head = node.ask("GET", "/v1/log/head", LogHead)
        if head.size < first:
            return head, LogProof(first=first, size=head.size, root=head.root)
        proof = node.ask("GET", f"/v1/log/consistency?first={first}", LogProof)
        if proof.size == head.size:
            return head, proof
    raise PeerError("the audit log grows faster than it can be asked for", hint="try again")
