"""Connections a second through one tunnel: dialled, a channel opened, a byte there and back, all of it closed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench.carriers import GCM, stage
from bench.measure import Case, Effort, Say, at_least, case

WAYS = {"one after the other": 1, "32 at a time": 32}


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours against OpenSSH, through `-L`."""
    runs = effort.choose(2, 5, 9)
    count = effort.choose(1000, 4000, 10_000)
    with stage({"answer": ("answer",)}) as on:
        carriers = [on.ours(), on.openssh(GCM, "-c", GCM)]
        rates: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(runs + 1):
            say(f"run {number} of {runs}")
            for way, at_once in WAYS.items():
                for carrier in carriers:
                    line = on.run("opens", str(carrier.near["answer"]), str(count), str(at_once))[0]
                    if number:
                        rates[carrier.name, way].append(count / float(line.split()[0]))
        ours, theirs = (carrier.name for carrier in carriers)
        for way in WAYS:
            yield case(
                "channels",
                f"opened and closed, {way}",
                "1/s",
                rates[ours, way],
                must="≥ 0.75 ×",
                met=at_least(0.75),
                better="higher",
                peer=(f"OpenSSH, {theirs}", rates[theirs, way]),
            )
