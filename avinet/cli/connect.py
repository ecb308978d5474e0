"""`avictl connect`: a byte pipe between standard input and output and a service of a service engine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from avinet.cli.context import Context, pass_node
from avinet.cli.se import place
from avinet.cli.splice import splice
from avinet.errors import LocalError
from avinet.wire.fleet import KeyAdmission, KeyAdmitted


def admit(context: Context, id: str, public_key: str) -> KeyAdmitted:
    """Have the service engine admit this public key (one line) for 5 minutes."""
    line = " ".join(public_key.split()[:2])
    return context.node.ask("POST", f"{place(id)}/ssh-keys", KeyAdmitted, KeyAdmission(public_key=line))


def engine_id(name: str) -> str:
    """The id in a host name as ssh_config gives it: `se-1.avinet` is `se-1`."""
    return name.removesuffix(".avinet")


@click.command()
@click.argument("id")
@click.argument("service")
@click.option(
    "--identity", help="First have the SSH service admit the public key of this identity file, for 5 minutes."
)
@pass_node
def connect(context: Context, id: str, service: str, identity: str | None) -> None:
    """Carry bytes between standard input and output and SERVICE (ssh, control, logs) of the service engine ID.

    As a ProxyCommand it takes stock ssh, scp and sftp there.
    """
    id = engine_id(id)
    if identity:
        path = Path(identity).expanduser()
        public = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
        try:
            line = public.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"cannot read {public}: {error}", hint="make it: ssh-keygen -t ed25519") from error
        admit(context, id, line)
    link = context.node.pipe(f"{place(id)}/services/{quote(service, safe=':')}")
    splice(link, 0, 1)
