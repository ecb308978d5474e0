"""What 10,000 tunnels cost a controller: bare ones, and real sessions that report, beside what sshd takes for as many.

Bare tunnels are the server, login and tunnels that avinet ships, with nothing on top; only keepalives go through them.
Real sessions are `twistd avi-controller` and `bench.crowd`: hello, services on offer, configuration applied and
acknowledged, a report each 10 s. With fewer than 10,000 tunnels what each adds is counted as often as for 10,000.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from avinet.trust.keys import generate, save_private
from bench.carriers import stage
from bench.measure import Case, Effort, Say, at_most_always, below, case, cpu_s, memory_mb, private_mb
from bench.site import Site

NAME = "fleet"
TUNNELS = 10_000
PROCESSES = 4
"""Processes of clients: each has room for as many descriptors as one may open."""
IDLE_SSHD = 20
REPORTS = 2.5
"""How many intervals of reports go by before anything is measured."""
INTERVAL_S = 10.0
DIALS_S = 240.0


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    count, window_s = effort.choose(1000, TUNNELS, TUNNELS), effort.choose(15.0, 45.0, 300.0)
    say(f"{IDLE_SSHD} idle connections of sshd")
    with stage({}) as place:
        each_mb = sum(map(private_mb, place.idle_openssh(IDLE_SSHD))) / IDLE_SSHD
    yield from bare(count, window_s, ("sshd, as many connections", [each_mb * TUNNELS]), say)
    yield from real(count, window_s, say)


def bare(count: int, window_s: float, sshd: tuple[str, list[float]], say: Say) -> Iterator[Case]:
    """Tunnels through which nothing goes but signs of life."""
    say(f"{count} bare tunnels")
    with Site() as site:
        for name in ("host_key", "user_key"):
            save_private(site.folder / name, generate())
        command = [sys.executable, "-m", "bench.bare"]
        where = [str(site.folder), str(site.ssh_port)]
        site.start("server", [*command, "server", *where])
        site.until("the server listens", lambda: "ready" in site.tail("server"))
        server = site.pid("server")
        base_mb = memory_mb(server)
        clients = [f"client-{number}" for number in range(PROCESSES)]
        for number, name in enumerate(clients):
            share = [str(number * count // PROCESSES), str(count // PROCESSES)]
            site.start(name, [*command, "client", *where, *share])
        ready = lambda: all("ready" in site.tail(name) for name in clients)  # noqa: E731
        site.until("all tunnels stand", ready, timeout_s=DIALS_S, every_s=0.1)
        time.sleep(INTERVAL_S)
        yield memory("bare", [grown(base_mb, memory_mb(server), count)], "bare ≤ 200 MB", 200.0, sshd)
        yield busy("bare", part_of_a_core(server, window_s), count, "< 15 % of a core", 15.0)


def real(count: int, window_s: float, say: Say) -> Iterator[Case]:
    """Sessions of service engines as a controller sees them."""
    say(f"{count} service engines")
    with Site() as site:
        site.make()
        base_mb = memory_mb(site.pid("controller"))
        site.kill("controller")
        site.enrol(count)
        site.start_controller()
        site.until("the controller answers", site.status)
        site.start_crowd(count, PROCESSES)
        acknowledged = lambda: site.status().engines.acknowledged == count  # noqa: E731
        site.until("all have acknowledged", acknowledged, timeout_s=DIALS_S, every_s=0.5)
        time.sleep(REPORTS * INTERVAL_S)
        controller = site.pid("controller")
        used_mb = [memory_mb(controller)]
        percent = part_of_a_core(controller, window_s)
        used_mb.append(memory_mb(controller))
        found = [grown(base_mb, each, count) for each in used_mb]
        yield memory("real", found, "real ≤ 350 MB", 350.0)
        yield busy("real", percent, count, "< 0.7 core", 70.0)


def grown(base_mb: float, found_mb: float, count: int) -> float:
    """The memory of a process with 10,000 tunnels, when it has `found_mb` with `count`, and `base_mb` without."""
    return base_mb + (found_mb - base_mb) * TUNNELS / count


def part_of_a_core(process: int, window_s: float, windows: int = 5) -> list[float]:
    """Percents of a core that a process uses, in each of several windows."""
    percents = []
    for _ in range(windows):
        began, used_s = time.monotonic(), cpu_s(process)
        time.sleep(window_s / windows)
        percents.append(100 * (cpu_s(process) - used_s) / (time.monotonic() - began))
    return percents


def memory(
    kind: str, found_mb: list[float], must: str, limit_mb: float, peer: tuple[str, list[float]] | None = None
) -> Case:
    """The case of the memory of the server's process."""
    return case(
        NAME, f"{TUNNELS:,} {kind} tunnels, memory", "MB", found_mb, must=must, met=at_most_always(limit_mb), peer=peer
    )


def busy(kind: str, percents: list[float], count: int, must: str, limit: float) -> Case:
    """The case of the CPU of the server's process."""
    found = [each * TUNNELS / count for each in percents]
    return case(NAME, f"{TUNNELS:,} {kind} tunnels, CPU", "% of a core", found, must=must, met=below(limit))
