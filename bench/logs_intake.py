"""How many lines a second come out of a real HAProxy's ring into sealed segments, and how many of them do not.

All of it runs on the same cores: HAProxy, the service engine, its sealer, and who offers the lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.log_source import LogSource, again_and_again, rows
from bench.measure import Case, Effort, Say, always_above, at_most_always, case
from bench.records import lines
from bench.site import Site

NAME = "logs-intake"
OFFERED_PER_S = 85_000.0
DIFFERENT = 100_000
"""How many lines there are before they come again."""


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    seconds = effort.choose(10.0, 60.0, 300.0)
    rates, lost, memory = [], [], []
    for _ in range(effort.choose(1, 3, 5)):
        with Site() as site:
            site.make()
            say(f"{OFFERED_PER_S:,.0f} lines a second are offered for {seconds:g} s")
            source = LogSource(site)
            taken_s, sent, seen = _offered(site, source, seconds)
            rates.append(rows(source.manifests()) / taken_s)
            lost.append(sent - rows(source.manifests()))
            memory.append(max(seen))
    yield case(
        NAME,
        "from HAProxy's ring into sealed segments",
        "lines/s",
        rates,
        must="≥ 75,000/s sustained",
        met=always_above(75_000),
        better="higher",
    )
    yield case(NAME, "lost of them", "lines", lost, must="0 lost", met=at_most_always(0))
    yield case(NAME, "memory, at most", "MB", memory, must="SE and sealer together ≤ 300 MB", met=at_most_always(300))


def _offered(site: Site, source: LogSource, seconds: float) -> tuple[float, int, list[float]]:
    """Seconds until all that was offered is sealed or told of, how much that was, and the memory meanwhile in MB."""
    seen: list[float] = []
    offered = again_and_again(lines(DIFFERENT, start_ms=int(time.time() * 1000)))
    begun = time.monotonic()
    sent = source.offer(offered, OFFERED_PER_S, seconds, lambda: seen.append(source.memory_mb()))
    site.until("all are sealed", lambda: source.counted() >= sent, every_s=0.05)
    return time.monotonic() - begun, sent, seen
