"""`avictl ssh`, `ssh-config`, `ssh-host-key`: stock OpenSSH to a service engine, through its own tunnel."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from avinet.cli.connect import admit, engine_id
from avinet.cli.context import Context, pass_node
from avinet.cli.se import place
from avinet.cli.shown import escaped, one_line
from avinet.errors import LocalError
from avinet.trust import keys
from avinet.wire.fleet import Engine


def proxy(context: Context) -> str:
    """The command that carries bytes to the SSH service of the host that ssh asks for."""
    own = [sys.executable, "-m", "avinet.cli", "--socket", os.path.abspath(context.node.path)]
    return " ".join(shlex.quote(word).replace("%", "%%") for word in own)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("id")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@pass_node
def ssh(context: Context, id: str, arguments: tuple[str, ...]) -> int:
    """Open an SSH session to the service engine ID, with a key that is good for 5 minutes.

    What follows goes to ssh: a command to run (`avictl ssh se-1 -- status`).
    """
    if not arguments:
        arguments = ("help",)
    with tempfile.TemporaryDirectory(prefix="avictl-") as place_:
        folder = Path(place_)
        key = keys.generate()
        keys.save_private(folder / "key", key)
        admitted = admit(context, id, keys.public_line(key))
        (folder / "known_hosts").write_text(f"{id} {admitted.host_key}\n")
        command = [
            "ssh",
            "-F/dev/null",
            f"-oProxyCommand={proxy(context)} connect %n ssh",
            f"-oUserKnownHostsFile={folder / 'known_hosts'}",
            "-oStrictHostKeyChecking=yes",
            "-oHostKeyAlgorithms=ssh-ed25519",
            f"-oIdentityFile={folder / 'key'}",
            "-oIdentitiesOnly=yes",
            "-oBatchMode=yes",
            "-oLogLevel=ERROR",
            f"-l{admitted.user}",
            id,
            *arguments,
        ]
        try:
            return subprocess.run(command, check=False).returncode
        except FileNotFoundError as error:
            raise LocalError("there is no ssh on this machine", hint="install OpenSSH's client") from error


@click.command("ssh-config")
@click.option("--identity", default="~/.ssh/avinet_ed25519", show_default=True, help="The key to log in with.")
@pass_node
def ssh_config(context: Context, identity: str) -> None:
    """Print what ~/.ssh/config needs for `ssh SE.avinet`, `scp` and `sftp`.

    The key is yours (ssh-keygen -t ed25519 -f ~/.ssh/avinet_ed25519); each connection has it admitted for 5 minutes.
    """
    own = proxy(context)
    print(
        f"Host *.avinet\n"
        f"    User avictlruser\n"
        f"    IdentityFile {identity}\n"
        f"    IdentitiesOnly yes\n"
        f"    HostKeyAlgorithms ssh-ed25519\n"
        f"    ProxyCommand {own} connect --identity {identity} %n ssh\n"
        f"    KnownHostsCommand {own} ssh-host-key %n\n"
        f"    UserKnownHostsFile /dev/null\n"
        f"    StrictHostKeyChecking yes"
    )


@click.command("ssh-host-key")
@click.argument("name")
@pass_node
def ssh_host_key(context: Context, name: str) -> None:
    """Print the host key of a service engine as a known_hosts line, for ssh's KnownHostsCommand."""
    engine = context.node.ask("GET", place(engine_id(name)), Engine)
    if engine.host_key:
        print(one_line(escaped(f"{name} {engine.host_key}")))
