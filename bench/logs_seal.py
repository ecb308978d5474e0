"""What sealing costs, and what a sealed record takes: in a real service engine, while lines go on coming in."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.log_source import LogSource, again_and_again, rows
from bench.measure import Case, Effort, Say, always_above, at_most_always, case
from bench.records import lines
from bench.site import Site

NAME = "logs-seal"
OFFERED_PER_S = 30_000.0
DIFFERENT = 500_000
"""How many lines there are before they come again: records of a segment are all different."""


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    seconds = effort.choose(10.0, 30.0, 60.0)
    rates, sizes, stalls_ms = [], [], []
    for _ in range(effort.choose(1, 5, 7)):
        with Site() as site:
            site.make()
            source = LogSource(site, age_s=300.0)
            say(f"{OFFERED_PER_S:,.0f} lines a second are offered for {seconds:g} s")
            offered = again_and_again(lines(DIFFERENT, start_ms=int(time.time() * 1000)))
            source.offer(offered, OFFERED_PER_S, seconds)
            found = source.whole_segments()
            rates.append(rows(found) / source.sealer_cpu_s())
            sizes.append(sum(each.bytes for each in found) / rows(found))
            stalls_ms.append(1000 * source.longest_stall_s())
    yield case(
        NAME,
        "sealed for each second of CPU",
        "rows/s",
        rates,
        must="≥ 150,000 rows/s a core",
        met=always_above(150_000),
        better="higher",
    )
    yield case(NAME, "a row on the disk", "bytes", sizes, must="≤ 45 bytes a row on disk", met=at_most_always(45))
    yield case(
        NAME, "longest turn of the loop", "ms", stalls_ms, must="reactor never stalled > 50 ms", met=at_most_always(50)
    )
