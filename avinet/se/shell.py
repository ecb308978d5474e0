"""The SSH service of a service engine, inside the tunnel: its commands, and its log folder, for nodes and operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.se.commands import Console
from avinet.se.operators import OperatorKeys
from avinet.ssh.identity import Identity
from avinet.ssh.server import Server
from avinet.ssh.session import SessionConnection
from avinet.ssh.sftp import FileServer, Folder
from avinet.wire.command import LONGEST_S, Ended

AFTER_S = 60.0
"""How long after its own deadline a command has to end."""


def shell_server(
    reactor: Any,
    host_key: Ed25519PrivateKey,
    operators: OperatorKeys,
    run: Callable[[str, Console], Awaitable[Ended]],
    logs: Path,
) -> Server:
    """A factory for connections to the SSH service; `run` runs a command line, `logs` is what SFTP shows."""

    def connection(identity: Identity) -> SessionConnection:
        return SessionConnection(
            reactor, identity, run, lambda: FileServer(Folder(logs)), command_s=LONGEST_S + AFTER_S
        )

    return Server(reactor, host_key, operators, connection)
