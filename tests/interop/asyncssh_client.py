"""asyncssh as `ssh -N -L LOCAL:api:80 -R api:80:127.0.0.1:TARGET`; run with its settings as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import asyncssh


def algorithms(exchange: str | None, cipher: str | None, mac: str | None) -> dict[str, Any]:
    """The options of a connection that is to use these."""
    names = {"kex_algs": exchange, "encryption_algs": cipher, "mac_algs": mac}
    return {option: [name] for option, name in names.items() if name}


async def main(
    port: int,
    user: str,
    key: str,
    host_key: str,
    local: int,
    target: int,
    rekey_bytes: int | None,
    rekey_s: int | None,
    **names: str | None,
) -> None:
    """Hold the tunnel until it ends."""
    hosts = asyncssh.import_known_hosts(f"[127.0.0.1]:{port} {host_key}\n")
    options = algorithms(**names)
    if rekey_bytes is not None:
        options["rekey_bytes"] = rekey_bytes
    if rekey_s is not None:
        options["rekey_seconds"] = rekey_s
    async with asyncssh.connect(
        "127.0.0.1", port, username=user, client_keys=[key], known_hosts=hosts, config=None, **options
    ) as connection:
        await connection.forward_local_port("127.0.0.1", local, "api", 80)
        await connection.forward_remote_port("api", 80, "127.0.0.1", target)
        print("ready", flush=True)
        await connection.wait_closed()


asyncio.run(main(**json.loads(sys.argv[1])))
