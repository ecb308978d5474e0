"""A pull and a push through one channel over a long fat link: 1 Gbit/s, 60 ms there and back, system TCP buffers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench.carriers import GCM, stage
from bench.link import Link
from bench.measure import Case, Effort, Say, at_least, case

RATE, DELAY_S = 1e9 / 8, 0.030
LINK = Link(RATE, DELAY_S, int(2 * RATE * 2 * DELAY_S), packets=True)
"""Its queue holds twice what the link does."""
MIB = 1 << 20


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours beside OpenSSH and TCP itself."""
    runs = effort.choose(2, 5, 7)
    size = effort.choose(128 * MIB, 256 * MIB, 512 * MIB)
    with stage({"sink": ("sink",), "serve": ("serve", str(size))}, LINK) as on:
        ours, openssh, raw = carriers = [on.ours(), on.openssh(GCM, "-c", GCM), on.raw()]
        speed: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(runs):
            for carrier in carriers:
                say(f"run {number + 1} of {runs}: {carrier.name}")
                for way, arguments in (
                    ("pull", ("pull", str(carrier.near["serve"]), "0")),
                    ("push", ("push", str(carrier.near["sink"]), str(size))),
                ):
                    seconds, count = on.run(*arguments)[0].split()
                    assert int(count) == size, f"{count} bytes of {size} came through {carrier.name}"
                    speed[carrier.name, way].append(size / 1e6 / float(seconds))
        for way in ("pull", "push"):
            for peer, name, must in ((openssh, f"OpenSSH, {GCM}", 1.5), (raw, "TCP itself", 0.9)):
                yield case(
                    "long-link",
                    way,
                    "MB/s",
                    speed[ours.name, way],
                    must=f"≥ {must:g} ×",
                    met=at_least(must),
                    better="higher",
                    peer=(name, speed[peer.name, way]),
                )
