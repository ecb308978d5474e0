"""asyncssh's server: python -m bench.asyncssh_server FOLDER PORT. It connects channels to wherever they ask."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncssh
from typing_extensions import override


class Forwarding(asyncssh.SSHServer):
    """Opens every channel that is asked for."""

    @override
    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


async def main(folder: str, port: str) -> None:
    """Serve until it is ended."""
    await asyncssh.listen(
        "127.0.0.1",
        int(port),
        server_factory=Forwarding,
        server_host_keys=[str(Path(folder) / "host_key")],
        authorized_client_keys=str(Path(folder) / "user_key.pub"),
        backlog=1024,
    )
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
