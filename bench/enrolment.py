"""How many service engines a node enrols, and how soon one is gone that is revoked.

An enrolment is a TLS connection, a challenge, two signatures and one transaction. Revoked is one of 200 whose tunnels
are open; it is gone when the kernel has no connection from its address any more.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from avinet.trust.image import KEY, NODES, ROOTS, open_image
from avinet.wire.fleet import Engine, EngineCreate, EnginesCreated
from avinet.wire.message import encode
from bench.identities import engine_id, source
from bench.measure import BenchError, Case, Effort, Say, always_above, at_most_always, case, cpu_s
from bench.site import Site
from bench.wire import connections

NAME = "enrolment"
AT_ONCE = 16
TUNNELS = 200
MUST = 300.0


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    yield from enrolments(effort, say)
    yield from revocations(effort, say)


def revocations(effort: Effort, say: Say) -> Iterator[Case]:
    """One of those that are connected is revoked, several times."""
    with Site() as site:
        site.make()
        site.kill("controller")
        site.enrol(TUNNELS)
        site.start_controller()
        site.until("the controller answers", site.status)
        site.start_crowd(TUNNELS, 1)
        say(f"{TUNNELS} service engines")
        site.until("all are connected", lambda: site.status().engines.connected == TUNNELS)
        gone_s = []
        for number in range(effort.choose(3, 10, 20)):
            begun = time.monotonic()
            site.node.ask("POST", f"/v1/service-engines/{engine_id(number)}/revocation", Engine)
            site.until("it is gone", lambda number=number: not connected(site, number), every_s=0.001)  # type: ignore[misc]
            gone_s.append(time.monotonic() - begun)
        yield case(
            NAME,
            f"from a revocation until its session is gone, with {TUNNELS} tunnels open",
            "s",
            gone_s,
            must="the SE's session is gone in ≤ 2 s",
            met=at_most_always(2.0),
        )


def connected(site: Site, number: int) -> bool:
    """Whether there is a connection from the address of this service engine to the node."""
    return any(each.startswith(f"{source(number)}:") for each in connections(site.ssh_port))


def enrolments(effort: Effort, say: Say) -> Iterator[Case]:
    """All of them come from one address, which is allowed more than by default."""
    count = effort.choose(200, 1000, 1000)
    with Site(f"calls_at_once = {3.0 * count}\ncalls_per_second = {3.0 * count}") as site:
        site.make()
        image = open_image(site.image)
        for name in (KEY, NODES, ROOTS):
            (site.folder / name).write_bytes(image.files[name])
        (site.folder / "image").write_text(image.manifest.image)
        each_cpu, each_s = [], []
        for number in range(effort.choose(2, 5, 9)):
            order = EngineCreate(count=count, prefix=f"run-{number}", driver="none")
            claimed = site.node.ask("POST", "/v1/service-engines", EnginesCreated, order, timeout_s=120).items
            (site.folder / "claims.json").write_bytes(encode(claimed))
            say(f"{count} service engines, {AT_ONCE} at once")
            before = cpu_s(site.pid("controller"))
            each_s.append(count / enrolled(site, count))
            each_cpu.append(count / (cpu_s(site.pid("controller")) - before))
        yield case(
            NAME,
            "enrolments for each second of the node's CPU",
            "1/s",
            each_cpu,
            must="≥ 300 enrolments/s on one core",
            met=always_above(MUST),
            better="higher",
        )
        say(f"with those who ask on the same cores: {statistics.median(each_s):.0f} a second")


def enrolled(site: Site, count: int) -> float:
    """The seconds until all that are expected have their receipts."""
    command = [sys.executable, "-m", "bench.newborns", str(site.folder), str(AT_ONCE)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=site.environment
    ) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        if asking.stdout.readline().strip() != "ready":
            raise BenchError("those who are to enrol did not start")
        begun = time.monotonic()
        asking.stdin.write("\n")
        asking.stdin.close()
        said = asking.stdout.read().strip()
        took_s = time.monotonic() - begun
    if said != str(count):
        raise BenchError(f"of {count} service engines there were enrolled: {said[-2000:]}")
    return took_s
