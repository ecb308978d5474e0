"""Logs in again and again, as a stock client does it.

    python -m bench.logins FOLDER PORT USER KEX COUNT HOST:PORT [AT_ONCE [APART_S]]

Each login is by asyncssh: connect, key exchange by KEX, aes128-gcm, the Ed25519 key in FOLDER, a channel to HOST:PORT,
a byte there and back, and the end. The seconds that each of them took are printed; with COUNT 0 there is no last one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count
from pathlib import Path

import asyncssh

from bench.carriers import GCM


async def main(
    folder: str, port: str, user: str, exchange: str, times: str, target: str, at_once: str = "1", apart_s: str = "0"
) -> None:
    """Log in one time after the other."""
    known = (Path(folder) / "host_key.pub").read_text()
    options = asyncssh.SSHClientConnectionOptions(
        username=user,
        client_keys=[str(Path(folder) / "user_key")],
        known_hosts=asyncssh.import_known_hosts(f"* {known}"),
        kex_algs=[exchange],
        encryption_algs=[GCM],
        agent_path=None,
        config=[],
    )
    left = iter(range(int(times)) if int(times) else count())

    async def work() -> None:
        for _ in left:
            print(f"{await logged_in(int(port), options, target):.6f}", flush=True)
            await asyncio.sleep(float(apart_s))

    await asyncio.gather(*(work() for _ in range(int(at_once))))


async def logged_in(port: int, options: asyncssh.SSHClientConnectionOptions, target: str) -> float:
    """The seconds from dialling to the byte that came back."""
    host, _, number = target.rpartition(":")
    began = time.perf_counter()
    async with asyncssh.connect("127.0.0.1", port, options=options) as connection:
        reader, writer = await connection.open_connection(host, int(number))
        writer.write(b"x")
        if await reader.readexactly(1) != b"x":
            raise ValueError("another byte came back than was sent")
        return time.perf_counter() - began


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
