"""One byte there and back through a channel: on an idle tunnel, and beside a transfer that never ends."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

from bench.carriers import GCM, Carrier, Stage, stage
from bench.measure import Case, Effort, Say, at_least, at_most, case

WAYS = ("pull", "push")
_SETTLED_S = 0.3


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours against OpenSSH."""
    runs = effort.choose(2, 5, 9)
    count = effort.choose(500, 2000, 4000)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    names: list[str] = []
    for number in range(runs):
        say(f"run {number + 1} of {runs}")
        with stage({"echo": ("echo",), "sink": ("sink",), "serve": ("serve", "0")}) as on:
            carriers = [on.ours(), on.openssh(GCM, "-c", GCM)]
            names = [carrier.name for carrier in carriers]
            for carrier in carriers:
                idle = pinged(on, carrier, count)
                found[carrier.name, "idle p50"].append(quantile(idle, 0.5))
                for way in WAYS:
                    times, speed = beside(on, carrier, way, count)
                    found[carrier.name, f"{way} p50"].append(quantile(times, 0.5))
                    found[carrier.name, f"{way} p99"].append(quantile(times, 0.99))
                    found[carrier.name, f"{way} speed"].append(speed)
    ours, theirs = names
    figures = [("idle p50", "idle, p50", "µs", 1.3)]
    for way in WAYS:
        figures += [
            (f"{way} p50", f"beside a {way}, p50", "µs", 1.2),
            (f"{way} p99", f"beside a {way}, p99", "µs", 0.5),
            (f"{way} speed", f"the {way} meanwhile", "MB/s", 1.0),
        ]
    for key, name, unit, factor in figures:
        faster = unit == "MB/s"
        yield case(
            "latency",
            name,
            unit,
            found[ours, key],
            must=f"{'≥' if faster else '≤'} {factor:g} ×",
            met=at_least(factor) if faster else at_most(factor),
            better="higher" if faster else "lower",
            peer=(f"OpenSSH, {theirs}", found[theirs, key]),
        )


def pinged(on: Stage, carrier: Carrier, count: int, apart_us: int = 0, seconds: float = 1e9) -> list[float]:
    """Round trips in µs, sorted: `count` of them, or those of so many seconds, but at least one."""
    lines = on.run("ping", str(carrier.near["echo"]), str(count), str(apart_us), str(seconds))
    return sorted(float(line) * 1e6 for line in lines)


def beside(
    on: Stage, carrier: Carrier, way: str, count: int, *, settle_s: float = _SETTLED_S, apart_us: int = 500
) -> tuple[list[float], float]:
    """Round trips in µs beside a transfer, and the MB/s of the transfer."""
    seconds = count * max(0.002, apart_us * 5e-6)
    if way == "pull":
        command = on.traffic("pull", str(carrier.near["serve"]), str(settle_s + seconds))
    else:
        command = on.traffic("push", str(carrier.near["sink"]), "0", str(settle_s + seconds))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bulk:
        with suppress(subprocess.TimeoutExpired):
            bulk.wait(settle_s)
        times = pinged(on, carrier, count, apart_us, seconds)
        out, _ = bulk.communicate(timeout=120)
    took, moved = out.split()
    return times, int(moved) / 1e6 / float(took)


def quantile(values: list[float], part: float) -> float:
    """The value below which `part` of the sorted `values` are."""
    return values[min(len(values) - 1, int(len(values) * part))]
