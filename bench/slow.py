"""A thousand channels whose readers are dead and whose sources never end: what that costs, and whom it disturbs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from bench.carriers import Carrier, Stage, stage
from bench.forwarder import USER
from bench.handshake import LATTICE, OURS, Server, login_times
from bench.latency import quantile
from bench.measure import BenchError, Case, Effort, Say, always_below, below, case, cpu_s, memory_mb
from demo.machine import StepFailed, free_ports

TUNNELS, EACH_WAY = 4, 125
"""A tunnel has as many dead readers at its client as at its server: 250 channels of the 256 that it may have."""
PATIENCE_S = 120.0
"""How long it may take until all of them are stuck."""
STILL = 1.0
"""What may seem to be used by processes that do nothing, in percent of a core: the kernel counts in ticks of 10 ms."""


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours alone: one server, and a process for each client."""
    runs = effort.choose(1, 3, 5)
    seconds = effort.choose(5.0, 10.0, 30.0)
    count = effort.choose(100, 300, 1000)
    grown: list[float] = []
    quiet_logins: list[float] = []
    logins: list[float] = []
    before: list[float] = []
    after: list[float] = []
    for number in range(runs):
        say(f"run {number + 1} of {runs}")
        with stage({"serve": ("serve", "0"), "echo": ("echo",)}) as on:
            on.machine.patience_s = PATIENCE_S
            (port,) = free_ports(1)
            carriers = on.ours_together(TUNNELS, port)
            processes = sorted({process for carrier in carriers for process in carrier.processes})
            server = Server(OURS, port, USER, "echo:1", carriers[0].processes[0])
            quiet_logins.append(p99_ms(on, server, count))
            memory = sum(map(memory_mb, processes))
            before.append(percent(processes, seconds))
            stick(on, carriers)
            until_still(on, processes)
            logins.append(p99_ms(on, server, count))
            after.append(percent(processes, seconds))
            grown.append(sum(map(memory_mb, processes)) - memory)
    what = f"{TUNNELS * EACH_WAY * 2:,} dead readers"
    yield case("slow", f"memory for {what}, both ends", "MB", grown, must="≤ +300 MB", met=always_below(300))
    yield case(
        "slow",
        f"logins beside {what}, p99",
        "ms",
        logins,
        must="p99 < 50 ms",
        met=below(50),
        peer=("the same tunnels before", quiet_logins),
    )
    yield case(
        "slow",
        f"CPU for {what}, both ends",
        "% of a core",
        after,
        must="no CPU growth",
        met=lambda ours, _: ours.median <= max(before) + STILL,
        peer=("the same tunnels before", before),
    )


def p99_ms(on: Stage, server: Server, count: int) -> float:
    """What a hundredth of `count` logins, one after the other, takes longer than."""
    return quantile(sorted(login_times(on, server, LATTICE, count)), 0.99) * 1000


def stick(on: Stage, carriers: Sequence[Carrier]) -> None:
    """Have readers that do not read on every tunnel, at both of its ends."""
    for number, carrier in enumerate(carriers):
        for side, doors in (("near", carrier.near), ("far", carrier.far)):
            on.start(f"stuck-{side}-{number}", *on.traffic("stuck", str(doors["serve"]), str(EACH_WAY)))


def until_still(on: Stage, processes: Sequence[int]) -> None:
    """Wait until all windows are full."""
    try:
        on.machine.until("the tunnels fall silent", lambda: percent(processes, 2.0) <= STILL)
    except StepFailed as error:
        raise BenchError(str(error)) from None


def percent(processes: Sequence[int], seconds: float) -> float:
    """The CPU that `processes` use together during the next `seconds`, in percent of a core."""
    used = sum(map(cpu_s, processes))
    began = time.monotonic()
    time.sleep(seconds)
    return (sum(map(cpu_s, processes)) - used) / (time.monotonic() - began) * 100
