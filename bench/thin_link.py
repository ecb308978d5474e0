"""A control round trip beside a pull over a thin link: 20 Mbit/s, 30 ms there and back, a deep buffer in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench.carriers import GCM, stage
from bench.latency import beside, quantile
from bench.measure import Case, Effort, Say, below, case

RATE, DELAY_S = 20e6 / 8, 0.015
APART_US = 20_000


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours beside OpenSSH, each over a link of its own."""
    runs = effort.choose(2, 5, 7)
    count = effort.choose(60, 150, 400)
    with stage({"echo": ("echo",), "serve": ("serve", "0")}) as on:
        link = (RATE, DELAY_S)
        carriers = [on.ours(link=link), on.openssh(GCM, "-c", GCM, link=link)]
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(runs):
            for carrier in carriers:
                say(f"run {number + 1} of {runs}: {carrier.name}")
                times, speed = beside(on, carrier, "pull", count, settle_s=1.0, apart_us=APART_US)
                found[carrier.name, "p99"].append(quantile(times, 0.99) / 1000)
                found[carrier.name, "used"].append(speed * 1e6 / RATE * 100)
        ours, theirs = (carrier.name for carrier in carriers)
        peer = f"OpenSSH, {theirs}"
        yield case(
            "thin-link",
            "control round trip beside a pull, p99",
            "ms",
            found[ours, "p99"],
            must="< 150 ms",
            met=below(150),
            peer=(peer, found[theirs, "p99"]),
        )
        yield case(
            "thin-link",
            "part of the link that the pull uses",
            "%",
            found[ours, "used"],
            must="≥ 90 %",
            met=lambda figures, _: figures.median >= 90,
            better="higher",
            peer=(peer, found[theirs, "used"]),
        )
