"""`avictl store`: where the state of the domain is. These verbs need no node that runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from avinet.cli.context import Context, pass_context
from avinet.cli.exits import FAULT, OK
from avinet.cli.given import config_option, settings_of
from avinet.cli.shown import emit, escaped, fields, moment, one_line, table
from avinet.errors import Invalid, LocalError
from avinet.units import format_bytes

if TYPE_CHECKING:
    from avinet.store.etcd.health import ClusterHealth
    from avinet.store.health import Fault, FileHealth


@click.group()
def store() -> None:
    """The store of the domain's state: look whether it is well, make certificates for etcd, and move it there."""


@store.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("members", nargs=-1, metavar="[NAME=ADDRESS[,ADDRESS...]]...")
@click.option("--renew", is_flag=True, help="Make anew what is nearly expired, or is for other addresses.")
@pass_context
def certificates(context: Context, folder: Path, members: tuple[str, ...], renew: bool) -> None:
    """Make the CA of etcd in FOLDER, and certificates for its members and for the nodes; what is there stays.

    NAME is a member as in its configuration, ADDRESS a host name or an IP address by which nodes and the other members
    reach it.
    """
    from avinet.store.etcd.members import found_members

    folder = folder.absolute()
    found = found_members(folder, dict(map(_member, members)), datetime.now(UTC), renew=renew)
    shown = [
        {
            "file": f"{each.name}.pem",
            "became": each.became,
            "expires": each.certificate.not_valid_after_utc.timestamp(),
            "addresses": list(each.addresses),
        }
        for each in found
    ]
    if context.output != "table":
        emit(shown, context.output)
        return
    table(
        ["FILE", "", "VALID UNTIL", "FOR"],
        [
            (
                f"{each.name}.pem",
                each.became,
                moment(each.certificate.not_valid_after_utc.timestamp()),
                ", ".join(each.addresses) or ("all of these" if each.name == "ca" else "nodes"),
            )
            for each in found
        ],
    )
    print(f"\nIn {escaped(str(folder))}. Each member needs ca.pem, NAME.pem and NAME.key; each node ca.pem, client.pem")
    print("and client.key; nobody needs ca.key, which is to be kept offline.")
    print("This CA is for etcd alone, and the domain's is never for etcd: etcd looks at no name in a certificate, and")
    print("gives whoever has one of its CA every right. So no service engine and no enrolment may ever have one.")


def _member(text: str) -> tuple[str, list[str]]:
    name, equals, addresses = text.partition("=")
    if not (name and equals and addresses):
        raise Invalid(f"{text!r} is no member", hint="write it as etcd-1=10.0.0.1,etcd-1.example.com")
    return name, addresses.split(",")


@store.command()
@config_option
@pass_context
def check(context: Context, settings: Path | None) -> int:
    """Look at the store that the settings name, whether or not the node runs. Ends with 1 when something is wrong."""
    found, path = settings_of(context, settings)
    health: FileHealth | ClusterHealth
    if found.store.engine == "sqlite":
        from avinet.store.health import check_file

        health = check_file(path.parent / found.state / "store.sqlite")
        show: Any = _show_file
    else:
        from avinet.cli.reacting import reacting
        from avinet.store.choose import check_etcd
        from avinet.store.health import Fault
        from avinet.store.resting import FilePlace
        from avinet.trust.domain import load

        domain = load(path.parent / found.state / "trust").id
        file = FilePlace(path.parent / found.state)
        health = reacting(lambda reactor: check_etcd(reactor, found.store, path.parent, domain, time.time))
        try:
            file.check_unused()
        except LocalError as error:
            both = Fault(error.what, error.hint)
            health = msgspec.structs.replace(health, faults=[*health.faults, both])
        show = _show_cluster
    if context.output == "table":
        show(health)
        _show_faults(health.faults)
    else:
        emit(health, context.output)
    return FAULT if health.faults else OK


@store.command()
@config_option
@click.option("--to", required=True, type=click.Choice(["sqlite", "etcd"]), help="Where the state is to be.")
@click.option("--dry-run", is_flag=True, help="Only look whether it can be done, and say what would be.")
@pass_context
def migrate(context: Context, settings: Path | None, to: Literal["sqlite", "etcd"], dry_run: bool) -> None:
    """Move the state of the domain to another engine, while the node is stopped. All of it arrives, or it stays.

    The endpoints and certificates of etcd are those in the settings, whatever engine they say.
    """
    from avinet.cli.reacting import reacting
    from avinet.files import FolderLock, check_owner
    from avinet.store.choose import migrate_store
    from avinet.trust.domain import load

    found, path = settings_of(context, settings)
    state = path.parent / found.state
    domain = load(state / "trust")
    check_owner(state)
    lock = FolderLock(state)
    lock.acquire()
    try:
        made = reacting(
            lambda reactor: migrate_store(
                reactor,
                found.store,
                path.parent,
                state,
                to=to,
                domain=domain.id,
                node=domain.node,
                now=time.time,
                dry_run=dry_run,
                told=_tell,
            )
        )
    finally:
        lock.release()
    if context.output != "table":
        emit(made, context.output)
        return
    content = made.content
    fields(
        [
            ("moved" if made.done else "would be moved", f"{content.keys} keys, {format_bytes(content.size)}, to {to}"),
            ("compared", f"both are the same: SHA-256 {content.sha256}" if made.done else ""),
            ("left out", f"{content.leased} keys under a lease, which are taken anew" if content.leased else ""),
            ("revisions", f"go on above {made.revision}"),
            ("as it was", made.kept),
        ]
    )
    if made.done:
        print(f'\nSet engine = "{to}" under [store] in {escaped(str(path))}, and start the node.')


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{what:<60}\r", end="", file=sys.stderr, flush=True)


def _show_file(health: FileHealth) -> None:
    fields(
        [
            ("store", f"SQLite, {health.path}"),
            ("size", f"{format_bytes(health.size)}; {format_bytes(health.free)} are free beside it"),
            ("revision", health.revision),
            ("keys", health.keys),
        ]
    )


_STATES = {
    "": "not known whether they are used",
    "none": "which has no store here",
    "used": "in use",
    "arriving": "a part of what is to come",
    "arrived": "to be used by the next start of the node",
    "left": "which has left",
}


def _show_cluster(health: ClusterHealth) -> None:
    fields(
        [
            ("store", f"etcd, {len(health.members)} members; the leader is {health.leader or 'not known'}"),
            ("quorum", f"{health.answering} take part, {health.quorum} have to" if health.members else None),
            ("keys", "not known" if health.keys is None else f"{health.keys} of this domain, {_STATES[health.state]}"),
            ("CA", f"valid until {moment(health.ca_expires)}"),
            ("certificate", f"of this node, valid until {moment(health.certificate_expires)}"),
        ]
    )
    print()
    table(
        ["ENDPOINT", "MEMBER", "VERSION", "READ", "WRITE", "SIZE", "IN USE", "QUOTA", "REVISION", "CERTIFICATE UNTIL"],
        [
            (
                each.endpoint,
                f"{each.name}, leads" if each.leader else each.name or "-",
                each.version or "-",
                *("-" if ms is None else f"{ms:.1f} ms" for ms in (each.read_ms, each.write_ms)),
                *(format_bytes(size) if size else "-" for size in (each.size, each.in_use, each.quota)),
                each.revision or "-",
                moment(each.expires) if each.expires else "-",
            )
            for each in health.endpoints
        ],
    )


def _show_faults(faults: Sequence[Fault]) -> None:
    print()
    for each in faults:
        print(f"BAD  {one_line(escaped(each.what + (f'; {each.hint}' if each.hint else '')))}")
    if not faults:
        print("ok   nothing is wrong")
