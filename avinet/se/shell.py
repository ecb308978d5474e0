"""The SSH service of a service engine, inside the tunnel: its commands, and its log folder, for nodes and operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.se.commands import Outcome
from avinet.se.operators import OperatorKeys
from avinet.ssh.identity import Identity
from avinet.ssh.server import Server
from avinet.ssh.session import SessionConnection
from avinet.ssh.sftp import FileServer, Folder


def shell_server(
    reactor: Any,
    host_key: Ed25519PrivateKey,
    operators: OperatorKeys,
    run: Callable[[str], Awaitable[Outcome]],
    logs: Path,
) -> Server:
    """A factory for connections to the SSH service; `run` runs a command line, `logs` is what SFTP shows."""

    async def ran(line: str) -> tuple[int, bytes, bytes]:
        outcome = await run(line)
        return outcome.exit_status, outcome.output.encode("utf-8"), outcome.error.encode("utf-8")

    def connection(identity: Identity) -> SessionConnection:
        return SessionConnection(reactor, identity, ran, lambda: FileServer(Folder(logs)))

    return Server(reactor, host_key, operators, connection)
