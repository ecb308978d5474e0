"""How fast a service engine and a controller come up and come back, and what they cost while nothing happens.

One service engine of its own process for the starts; a fleet of 200 in two processes for the rest, each with its own
state folder and the built-in data plane. All of them dial from one address, under the default limits. What they have
acknowledged is read on the controller's UNIX socket, every 10 ms for one and every 50 ms for the fleet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from bench.measure import Case, Effort, Say, always_below, below, case, memory_mb
from bench.site import Site, acknowledged
from bench.wire import connections

NAME = "lifecycle"
ENGINES = 200
PROCESSES = 2
REPORTS = 2.5
"""How many intervals of reports go by before memory is read."""
INTERVAL_S = 10.0
AWAY_S = (0.0, 1.0, 2.0, 5.0, 15.0)
"""How long the controller stays away after a kill: a service engine's waits between two tries grow with it."""


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    with Site() as site:
        say("a domain of trust, a controller, an image")
        site.make()
        yield from starts(site, effort, say)
    with Site() as site:
        site.make()
        yield from fleet(site, effort, say)


def starts(site: Site, effort: Effort, say: Say) -> Iterator[Case]:
    """One service engine at a time; the first one warms the disk, and is not counted."""
    runs = effort.choose(3, 7, 21)
    first, again = [], []
    say(f"{runs} service engines, started from the image, then once more")
    made = site.expect(1 + runs)
    for number, (id, command) in enumerate(made):
        first.append(started(site, id, command))
        site.kill(id)
        site.until(f"the tunnel of {id} is gone", lambda id=id: site.engine(id).connected_since is None)  # type: ignore[misc]
        again.append(started(site, id, command))
        if number < runs:
            site.kill(id)
    met = below(1.0)
    yield case(NAME, "SE process start to acknowledged configuration", "s", again[1:], must="< 1 s", met=met)
    yield case(NAME, "the same on its first start, enrolment included", "s", first[1:], must="< 1 s", met=met)

    say(f"{runs} times: kill -9 of the controller, start it, wait for its first tunnel")
    up = []
    for _ in range(1 + runs):
        site.kill("controller")
        begun = site.start_controller()
        site.until("a tunnel is up", lambda: site.engine(id).connected_since)
        up.append(time.monotonic() - begun)
        site.until(f"{id} has acknowledged", lambda: acknowledged(site.engine(id)))
    yield case(NAME, "controller start to first tunnel", "s", up[1:], must="< 2 s", met=below(2.0))


def started(site: Site, id: str, command: list[str]) -> float:
    """Seconds from the start of the process to the acknowledgement, as the controller knows it."""
    begun = site.start(id, command)
    site.until(f"{id} has acknowledged", lambda: acknowledged(site.engine(id)))
    return time.monotonic() - begun


def comes_back(site: Site, away_s: float) -> float:
    """Seconds from the listener being up to the acknowledgement of the last, after `away_s` without a controller."""
    site.kill("controller")
    time.sleep(away_s)
    site.start_controller()
    site.until("the listener is up", site.listens, every_s=0.002)
    begun = time.monotonic()
    site.until("the fleet is back", lambda: whole(site), every_s=0.05)
    return time.monotonic() - begun


def fleet(site: Site, effort: Effort, say: Say) -> Iterator[Case]:
    """200 service engines in two processes."""
    say(f"{ENGINES} service engines in {PROCESSES} processes enrol")
    made = [id for id, _ in site.expect(ENGINES)]
    for number in range(PROCESSES):
        folders = [str(site.instance(id)) for id in made[number::PROCESSES]]
        site.start(f"engines-{number}", [sys.executable, "-m", "bench.engines", *folders])
    site.until("the fleet has acknowledged", lambda: whole(site), timeout_s=300, every_s=0.25)
    time.sleep(REPORTS * INTERVAL_S)
    memory = [memory_mb(site.pid("controller"))]

    window_s = effort.choose(30.0, 60.0, 300.0)
    say(f"nothing happens for {window_s:g} s")
    yield idle(site, window_s)

    absences = effort.choose((0.0, 5.0), AWAY_S, 3 * AWAY_S)
    say(f"{len(absences)} times: kill -9 of the controller, start it within {AWAY_S[-1]:g} s, wait for {ENGINES} SEs")
    back = []
    for away_s in absences:
        back.append(comes_back(site, away_s))
        time.sleep(REPORTS * INTERVAL_S)
        memory.append(memory_mb(site.pid("controller")))
    yield case(
        NAME,
        f"after kill -9 of the controller and its restart, {ENGINES} SEs are back and have acknowledged",
        "s",
        back,
        must="within 5 s of the listener being up",
        met=always_below(5.0),
    )
    yield case(NAME, f"controller with {ENGINES} SEs that report", "MB", memory, must="< 120 MB", met=below(120.0))


def whole(site: Site) -> bool:
    """Whether all of the fleet have acknowledged what they should run, each through the tunnel that it has now."""
    engines = site.engines()
    return len(engines) == ENGINES and all(map(acknowledged, engines))


def idle(site: Site, window_s: float) -> Case:
    """What each tunnel carries in `window_s`, both directions, IP headers counted; a run is one service engine."""
    before, begun = connections(site.ssh_port), time.monotonic()
    time.sleep(window_s)
    after, seconds = connections(site.ssh_port), time.monotonic() - begun
    kbits = [(after[name].bytes - before[name].bytes) * 8 / 1000 / seconds for name in before if name in after]
    return case(
        NAME, "idle management traffic of an SE", "kbit/s", kbits or [float("inf")], must="< 2 kbit/s", met=below(2.0)
    )
