"""`avictl store`: where the state of the domain is. These verbs need no node that runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.shown import emit, escaped, moment, table
from avinet.errors import Invalid


@click.group()
def store() -> None:
    """The store of the domain's state: certificates for etcd."""


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
