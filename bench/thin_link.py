"""A control round trip beside a pull over a thin link: 20 Mbit/s, 30 ms there and back, of both kinds of link."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench.carriers import GCM, stage
from bench.latency import beside, pinged, quantile
from bench.link import Link
from bench.measure import Case, Effort, Say, below, case

RATE, DELAY_S = 20e6 / 8, 0.015
LINKS = {
    "behind a relay": Link(RATE, DELAY_S, 64 * 1024 * 1024, packets=False),
    "over packets": Link(RATE, DELAY_S, 1_000_000, packets=True),
}
APART_US = 20_000
SETTLE_S = 4.0
_SOURCE = 1.25 * RATE
"""What there is to pull, in bytes/s: Conch keeps in memory all that it is given, and much of it makes it slow."""


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours beside OpenSSH and stock Conch, over each kind of link."""
    for kind, link in LINKS.items():
        yield from over(kind, link, effort, say)


def over(kind: str, link: Link, effort: Effort, say: Say) -> Iterator[Case]:
    """Over one kind of link."""
    runs = effort.choose(2, 5, 7)
    count = effort.choose(110, 150, 400)
    size = int(link.rate * (SETTLE_S + 0.1 * count))  # Conch does not let go of a source that goes on
    with stage({"echo": ("echo",), "serve": ("serve", str(size), str(_SOURCE))}, link) as on:
        ours = on.ours()
        peers = [
            on.openssh(GCM, "-c", GCM),
            on.conch("windows of 128 KiB", 128 * 1024),
            on.conch("windows of 8 MiB", 8 * 1024 * 1024),
        ]
        p99: dict[str, list[float]] = defaultdict(list)
        used: dict[str, list[float]] = defaultdict(list)
        for number in range(runs):
            for carrier in (ours, *peers):
                say(f"{kind}, run {number + 1} of {runs}: {carrier.name}")
                times, speed = beside(on, carrier, "pull", count, settle_s=SETTLE_S, apart_us=APART_US)
                p99[carrier.name].append(quantile(times, 0.99) / 1000)
                used[carrier.name].append(speed * 1e6 / link.rate * 100)
                pinged(on, carrier, 1)  # comes back when all that was still under way has gone
        for peer in peers:
            name = f"{'OpenSSH' if peer.name == GCM else 'stock Conch'}, {peer.name}"
            yield case(
                "thin-link",
                f"control round trip beside a pull, {kind}, p99",
                "ms",
                p99[ours.name],
                must="< 150 ms",
                met=below(150),
                peer=(name, p99[peer.name]),
            )
            yield case(
                "thin-link",
                f"part of the link that the pull uses, {kind}",
                "%",
                used[ours.name],
                must="≥ 90 %",
                met=lambda figures, _: figures.median >= 90,
                better="higher",
                peer=(name, used[peer.name]),
            )
