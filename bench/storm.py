"""How fast a fleet is back when its controller was killed and started again, and how long the controller is deaf.

The service engines are those of `bench.crowd`, on the same machine, each dialling from an address of its own. What they
have acknowledged, each through the tunnel that it has then, is read on the controller's UNIX socket.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.measure import Case, Effort, Say, at_most_always, case
from bench.site import Site

NAME = "storm"
PROCESSES = 4
LOOK_S = 0.2
SETTLED_S = 6.0
"""How long the fleet is left alone between two storms: the controller writes what was acknowledged every 5 s."""


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    yield from storms(2000, effort.choose(2, 5, 7), "2,000 in ≤ 8 s", 8.0, say)
    if effort.full:
        yield from storms(10_000, 5, "10,000 in ≤ 45 s", 45.0, say)


def storms(count: int, times: int, must: str, limit_s: float, say: Say) -> Iterator[Case]:
    """Kill the controller and start it again, several times, with `count` service engines."""
    say(f"{count} service engines")
    with Site() as site:
        site.make()
        site.kill("controller")
        site.enrol(count)
        site.start_controller()
        site.until("the controller answers", site.status)
        site.start_crowd(count, PROCESSES)
        site.until("all have acknowledged", lambda: whole(site, count), timeout_s=240, every_s=0.5)
        say(f"{times} times: kill -9 of the controller, start it, wait for all {count}")
        back_s, deaf_ms = [], []
        for _ in range(times):
            time.sleep(SETTLED_S)
            back_s.append(comes_back(site, count))
            deaf_ms.append(1000 * site.status().longest_stall_s)
    what = f"after kill -9 of the controller and its restart, {count:,} SEs are back and have acknowledged"
    yield case(NAME, what, "s", back_s, must=must, met=at_most_always(limit_s))
    what = f"the longest turn of the controller's loop until {count:,} were back"
    yield case(NAME, what, "ms", deaf_ms, must="no loop stall > 250 ms", met=at_most_always(250.0))


def comes_back(site: Site, count: int) -> float:
    """Seconds from the listener being up to the acknowledgement of the last."""
    site.kill("controller")
    site.start_controller()
    site.until("the listener is up", site.listens, every_s=0.002)
    begun = time.monotonic()
    site.until("the fleet is back", lambda: whole(site, count), timeout_s=240, every_s=LOOK_S)
    return time.monotonic() - begun


def whole(site: Site, count: int) -> bool:
    """Whether all have acknowledged what they should run, each through the tunnel that it has now."""
    return site.status().engines.acknowledged == count
