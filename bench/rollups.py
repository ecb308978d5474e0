"""What it costs a node to keep what 2,000 service engines report, in processor and disk, and to be asked for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from avinet.dataplane.counting import Counter
from avinet.telemetry.rollups.file import ENGINES, FLEET, SeriesFile
from avinet.telemetry.rollups.reading import Wanted, read
from avinet.telemetry.rollups.slot import Slot
from avinet.telemetry.rollups.sums import COARSE_S, FINE_S, PARTS
from avinet.wire.message import decode, encode
from avinet.wire.report import REPORT_LIMIT_BYTES, Report, ServiceTraffic
from bench.measure import Case, Effort, Say, below, case

NAME = "rollups"
ENGINE_COUNT, SERVICES, SERVERS = 2000, 3, 4
REQUESTS = 10
"""Of each virtual service of a service engine, in a slot."""
START = 1_800_000_000


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    periods = effort.choose(1, 3, 12)
    for names, own in (("names in common", False), ("names of their own", True)):
        bodies = [encode(_report(number, own)) for number in range(ENGINE_COUNT)]
        yield _told(f"a report, {names}", "bytes", [sum(map(len, bodies)) / len(bodies)])
        with TemporaryDirectory() as folder:
            file = SeriesFile(Path(folder), 1 << 40)
            say(f"{periods * COARSE_S // FINE_S} slots of {ENGINE_COUNT} service engines are written")
            taken, written, coarse = _written(file, bodies, periods)
            whole = [
                take_s + write_s + coarse[number * FINE_S // COARSE_S]
                for number, (take_s, write_s) in enumerate(zip(taken, written, strict=True))
            ]
            yield _told(f"to take the reports, {names}", "s/slot", taken)
            yield _told(f"to write them, {names}", "s/slot", written)
            yield _told(f"share of the tier of 5 min, {names}", "s/slot", coarse)
            must = "well under 0.5 s of CPU per 10 s slot"
            yield case(NAME, f"together, {names}", "s/slot", whole, must=must, met=below(0.5))
            slots = periods * COARSE_S / FINE_S
            yield _told(f"on the disk, {names}", "MB/slot", [file.used_bytes / slots / 1e6])
            file.close()
            yield from _asked(Path(folder), names, f"service-0{'-7' if own else ''}", periods)


def _told(name: str, unit: str, values: Sequence[float]) -> Case:
    """A figure for which nothing was asked."""
    return case(NAME, name, unit, values, must="as measured", met=lambda ours, _: True)


def _report(engine: int, own: bool) -> Report:
    chance, traffic = random.Random(engine), list[ServiceTraffic]()
    tag = f"-{engine}" if own else ""
    for service in range(SERVICES):
        counter = Counter(f"service-{service}{tag}")
        counter.connections, counter.new_connections = chance.randrange(50), chance.randrange(100)
        for _ in range(REQUESTS):
            server = counter.dialled(f"pool-{service}{tag}", [f"server-{chance.randrange(SERVERS)}"])
            server.ended(0.001 + chance.lognormvariate(-4.5, 1), chance.choice([200] * 18 + [404, 503]))
            size = chance.randrange(90_000)
            server.bytes_in, server.bytes_out = server.bytes_in + 400, server.bytes_out + size
            counter.bytes_in, counter.bytes_out = counter.bytes_in + 400, counter.bytes_out + size
        taken = counter.take()
        assert taken is not None
        traffic.append(taken)
    return Report(seq=1, boot="0123456789abcdef", time=0.0, interval_s=10.0, traffic=traffic)


def _processor_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _written(file: SeriesFile, bodies: list[bytes], periods: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of the processor for each slot: to take the reports, to write them, and its share of the coarse tier."""
    taken, written, coarse = [], [], []
    for at in range(START, START + periods * COARSE_S, FINE_S):
        slot = Slot(at)
        reports = [decode(body, Report, limit_bytes=REPORT_LIMIT_BYTES) for body in bodies]
        taken.append(_processor_s(lambda slot=slot, reports=reports: _take(slot, reports)))  # type: ignore[misc]
        written.append(_processor_s(lambda slot=slot: file.write(slot.at, slot.engines())))  # type: ignore[misc]
        if (at + FINE_S) % COARSE_S == 0:
            coarse.append(_processor_s(lambda at=at: _make_coarse(file, at + FINE_S)) * FINE_S / COARSE_S)  # type: ignore[misc]
    return taken, written, coarse


def _take(slot: Slot, reports: list[Report]) -> None:
    for number, report in enumerate(reports):
        slot.take(f"se-{number}", report)


def _make_coarse(file: SeriesFile, now: int) -> None:
    for at in file.due(now):
        for kind in (ENGINES, FLEET):
            for part in range(PARTS):
                file.make_coarse(at, kind, part)
        file.finish_coarse(at)


def _asked(folder: Path, names: str, service: str, periods: int) -> Iterator[Case]:
    end = START + periods * COARSE_S
    half = frozenset(f"se-{number}" for number in range(0, ENGINE_COUNT, 2))
    for what, wanted in (
        ("a virtual service, by 10 s", Wanted(START, end, FINE_S, service=service)),
        ("its servers, by 30 s", Wanted(START, end, 30, service=service, by="server")),
        ("a service engine, by 10 s", Wanted(START, end, FINE_S, engines=frozenset(["se-7"]), by="virtual-service")),
        ("half the fleet, by 5 min", Wanted(START, end, COARSE_S, service=service, engines=half)),
        ("each service engine, by 5 min", Wanted(START, end, COARSE_S, service=service, by="service-engine")),
    ):
        times = [_processor_s(lambda wanted=wanted: read(folder, wanted)) for _ in range(3)]  # type: ignore[misc]
        yield _told(f"asked of {periods * COARSE_S // 60} min: {what}, {names}", "s", times)
