"""`avictl connect`: a byte pipe between standard input and output and a service of a service engine."""

from __future__ import annotations

import os
import selectors
import socket
from pathlib import Path
from urllib.parse import quote

import click

from avinet.cli.main import Context, pass_context
from avinet.cli.se import place
from avinet.errors import LocalError
from avinet.wire.fleet import KeyAdmission, KeyAdmitted

CHUNK = 256 * 1024


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
@pass_context
def connect(context: Context, id: str, service: str, identity: str | None) -> None:
    """Carry bytes between standard input and output and SERVICE (ssh, control) of the service engine ID.

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


def splice(link: socket.socket, source: int, sink: int) -> None:
    """Carry bytes from `source` to `link` and from `link` to `sink` until both directions have ended."""
    with selectors.DefaultSelector() as waiting:
        reading = True
        try:
            waiting.register(source, selectors.EVENT_READ)
        except PermissionError:  # a regular file is always ready
            _send_file(link, source)
            reading = False
        waiting.register(link, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is link:
                    data = link.recv(CHUNK)
                    if not data:
                        return
                    _write(sink, data)
                elif reading:
                    data = os.read(source, CHUNK)
                    if data:
                        link.sendall(data)
                    else:
                        reading = False
                        waiting.unregister(source)
                        link.shutdown(socket.SHUT_WR)


def _send_file(link: socket.socket, source: int) -> None:
    while data := os.read(source, CHUNK):
        link.sendall(data)
    link.shutdown(socket.SHUT_WR)


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]
