"""asyncssh as a server that forwards to wherever it is asked to; run with its settings as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    """Lets every channel through."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


async def main(
    port: int,
    host_key: str,
    authorized: str,
    rekey_bytes: int,
    exchange: str,
    cipher: str,
    mac: str,
) -> None:
    """Serve until it is ended."""
    options = {"kex_algs": [exchange], "encryption_algs": [cipher], **({"mac_algs": [mac]} if mac else {})}
    async with asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=Server,
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        rekey_bytes=rekey_bytes,
        config=None,
        **options,
    ) as server:
        print("listening", flush=True)
        await server.wait_closed()


asyncio.run(main(**json.loads(sys.argv[1])))
