"""What a login costs a server: connect, key exchange, Ed25519, one channel and a byte there and back, the end."""

from __future__ import annotations

import getpass
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.carriers import GCM, Stage, descendants, stage
from bench.forwarder import USER
from bench.measure import BenchError, Case, Effort, Say, at_most, case, cpu_s
from demo.machine import StepFailed, free_ports

CURVE, LATTICE, PRIME = "curve25519-sha256", "mlkem768x25519-sha256", "sntrup761x25519-sha512@openssh.com"
AT_ONCE = 8
"""Few enough for sshd, which turns strangers away from the tenth on."""
OURS, OPENSSH, ASYNCSSH = "ours", "OpenSSH sshd", "asyncssh"


@dataclass
class Server:
    """What is logged in to: as whom, and how a channel to the echo is asked for there."""

    name: str
    port: int
    user: str
    target: str
    process: int

    def cpu_s(self) -> float:
        """The seconds of CPU that it has used, for connections that have all ended."""
        return cpu_s(self.process, children=True)


LogIn = Callable[[Stage, Server, str, int], None]
"""Logs in to a server with a key exchange, so many times."""


def login_times(on: Stage, server: Server, exchange: str, count: int, at_once: int = 1) -> list[float]:
    """The seconds of each of `count` logins by a client that is a process of its own, `at_once` at a time."""
    command = (sys.executable, "-m", "bench.logins", str(on.machine.folder), str(server.port), server.user)
    done = subprocess.run(
        [*command, exchange, str(count), server.target, str(at_once)], capture_output=True, text=True, check=False
    )
    if done.returncode or len(done.stdout.split()) != count:
        raise BenchError(f"asyncssh cannot log in to {server.name}: {done.stderr.strip()[-500:]}")
    return list(map(float, done.stdout.split()))


def by_asyncssh(on: Stage, server: Server, exchange: str, count: int) -> None:
    """One process that logs in `count` times."""
    login_times(on, server, exchange, count, AT_ONCE)


def by_openssh(on: Stage, server: Server, exchange: str, count: int) -> None:
    """`count` processes that log in once."""
    command = [*on.ssh(server.port, "-c", GCM, "-o", f"KexAlgorithms={exchange}"), "-W", server.target]

    def log_in(_: int) -> None:
        done = subprocess.run([*command, f"{server.user}@127.0.0.1"], input=b"x", capture_output=True, check=False)
        if done.stdout != b"x":
            raise BenchError(f"ssh cannot log in to {server.name}: {done.stderr.decode(errors='replace').strip()}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(log_in, range(count)))


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours against sshd and asyncssh's server, with the same client, where it has a key exchange that both have."""
    runs = effort.choose(2, 5, 9)
    count = effort.choose(100, 300, 500)
    rows: list[tuple[str, dict[str, tuple[str, LogIn]]]] = [
        ("post-quantum", {**dict.fromkeys((OURS, ASYNCSSH), (LATTICE, by_asyncssh)), OPENSSH: (PRIME, by_openssh)}),
        ("curve25519", dict.fromkeys((OURS, ASYNCSSH, OPENSSH), (CURVE, by_asyncssh))),
    ]
    with stage({"echo": ("echo",)}) as on:
        servers = {server.name: server for server in (ours(on), sshd(on), asyncssh(on))}
        for what, ways in rows:
            cost: dict[str, list[float]] = defaultdict(list)
            for number in range(runs + 1):
                say(f"{what}, run {number} of {runs}")
                for name, (exchange, log_in) in ways.items():
                    used = cpu_ms(on, servers[name], exchange, log_in, count if number else 10)
                    if number:
                        cost[name].append(used)
            for name, part in ((OPENSSH, 12), (ASYNCSSH, 2)):
                yield case(
                    "handshake",
                    f"a login, {what}, CPU of the server",
                    "ms",
                    cost[OURS],
                    must=f"≤ 1/{part} of {'sshd' if name == OPENSSH else name}'s",
                    met=at_most(1 / part),
                    peer=(f"{name}, {ways[name][0]}", cost[name]),
                )


def cpu_ms(on: Stage, server: Server, exchange: str, log_in: LogIn, count: int) -> float:
    """Milliseconds of the server's CPU for each of `count` logins."""
    before = server.cpu_s()
    log_in(on, server, exchange, count)
    try:
        on.machine.until(f"{server.name} is done with all of them", lambda: not descendants(server.process))
    except StepFailed as error:
        raise BenchError(str(error)) from None
    return (server.cpu_s() - before) * 1000 / count


def ours(on: Stage) -> Server:
    """Ours, with the target as a service."""
    (port,) = free_ports(1)
    return Server(OURS, port, USER, "echo:1", on.our_server(OURS, port))


def sshd(on: Stage) -> Server:
    """OpenSSH's: a process for each connection, two until the login."""
    (port,) = free_ports(1)
    return Server(OPENSSH, port, getpass.getuser(), f"127.0.0.1:{on.targets['echo']}", on.sshd("sshd", port))


def asyncssh(on: Stage) -> Server:
    """asyncssh's, one process as ours is."""
    (port,) = free_ports(1)
    folder = str(on.machine.folder)
    process = on.start(ASYNCSSH, sys.executable, "-m", "bench.asyncssh_server", folder, str(port))
    return Server(ASYNCSSH, port, "anyone", f"127.0.0.1:{on.targets['echo']}", process)
