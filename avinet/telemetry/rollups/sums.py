"""What is kept of traffic, and how it is added up: exactly, in any order, over time and over service engines.

A count is the sum of counts, a histogram that of its buckets. Connections that are open are no count: they are kept as
the sum of what each slot has seen, which divided by the slots is their mean.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from avinet.wire.report import COARSE, ServerTraffic, ServiceTraffic, coarse

FINE_S, COARSE_S = 10, 300
"""The two tiers, in seconds of a slot."""
PARTS = 32
"""So many parts has a slot by service engine, and as many by virtual service: who asks for one reads one of them."""
MOST = 2**44
"""No count of a report is believed to be more: sums of all of them must fit into 64 bits."""
OTHER = "other"
PACKED_BYTES = 256 * 1024
"""What is kept of one report; one that has more is kept without its servers, or at last without its latencies."""
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")
CONNECTIONS, NEW, REQUESTS, UNSERVED, STATUS, BYTES_IN, BYTES_OUT = 0, 1, 2, 3, 4, 10, 11
WIDTH = 12
"""Where what is in `Sums.counts`; from `STATUS` on those of `CLASSES`."""


class Sums(msgspec.Struct, array_like=True, gc=False):
    """Counts in their places, and how many latencies are in each bucket (`avinet.wire.report`)."""

    counts: list[int]
    latency: dict[int, int]


class Service(msgspec.Struct, array_like=True, gc=False):
    """What was done for a virtual service, and by each `POOL/SERVER` of it."""

    sums: Sums
    servers: dict[str, Sums]


class Engine(msgspec.Struct, array_like=True, gc=False):
    """A service engine in a slot, which had `reports` of it in `slots` of 10 s, the last one with `seq` of `boot`.

    `services` is a packed map of `Service` by name.
    """

    reports: int
    slots: int
    boot: str
    seq: int
    services: msgspec.Raw


Services = dict[str, Service]
pack = msgspec.msgpack.Encoder().encode
unpack_services: Callable[[bytes | msgspec.Raw], Services] = msgspec.msgpack.Decoder(Services).decode
unpack_lazily: Callable[[bytes | msgspec.Raw], dict[str, msgspec.Raw]] = msgspec.msgpack.Decoder(
    dict[str, msgspec.Raw]
).decode
unpack_service: Callable[[bytes | msgspec.Raw], Service] = msgspec.msgpack.Decoder(Service).decode
unpack_engines: Callable[[bytes], dict[str, Engine]] = msgspec.msgpack.Decoder(dict[str, Engine]).decode


def part_of(name: str) -> int:
    """In which part the service engine or the virtual service of a name is."""
    return zlib.crc32(name.encode()) % PARTS


def nothing() -> Sums:
    """No traffic."""
    return Sums([0] * WIDTH, {})


def add(into: Sums, more: Sums) -> None:
    """Add `more` to `into`."""
    into.counts = list(map(operator.add, into.counts, more.counts))
    latency = into.latency
    for bucket, count in more.latency.items():
        latency[bucket] = latency.get(bucket, 0) + count


K = TypeVar("K")


def add_to(total: dict[K, Sums], key: K, more: Sums) -> None:
    """Add `more` to what is in `total` under `key`."""
    found = total.get(key)
    if found is None:
        total[key] = Sums(more.counts, dict(more.latency))
    else:
        add(found, more)


def add_services(total: Services, more: Mapping[str, Service], services: int, servers: int) -> None:
    """Add what was done for each; no more of them than `services`, with `servers` each, have a name: the rest is
    `OTHER`.
    """
    for name, each in more.items():
        found = total.get(name)
        if found is None:
            if len(total) >= services:
                name = OTHER
            found = total.get(name)
            if found is None:
                found = total[name] = Service(nothing(), {})
        add(found.sums, each.sums)
        known = found.servers
        for server, sums in each.servers.items():
            if server not in known and len(known) >= servers:
                server = f"{OTHER}/{OTHER}"
            add_to(known, server, sums)


def one_after_the_other(times: Iterable[Services]) -> Services:
    """The reports of one service engine within a slot: connections are those of the last one."""
    total: Services = {}
    for each in times:
        for service in total.values():
            service.sums.counts[CONNECTIONS] = 0
            for sums in service.servers.values():
                sums.counts[CONNECTIONS] = 0
        add_services(total, each, len(total) + len(each), 2 * PACKED_BYTES)
    return total


def kept(traffic: Sequence[ServiceTraffic]) -> bytes:
    """A report as it is kept: a packed map of `Service`, of `PACKED_BYTES` at most or without what is too much."""
    services = {each.name: Service(_sums(each), _servers(each.servers)) for each in traffic}
    packed = pack(services)
    if len(packed) > PACKED_BYTES:
        packed = pack({name: Service(each.sums, {}) for name, each in services.items()})
    if len(packed) > PACKED_BYTES:
        packed = pack({name: Service(Sums(each.sums.counts, {}), {}) for name, each in services.items()})
    return bytes(memoryview(packed))  # what the encoder gives has room for half as much again


def _servers(servers: Sequence[ServerTraffic]) -> dict[str, Sums]:
    found = {}
    for each in servers:
        sums = found[f"{each.pool}/{each.server}"] = _sums(each)
        for index in sums.latency:
            if index % COARSE:
                sums.latency = dict(coarse(sums.latency.items()).buckets)
                break
    return found


def _sums(each: ServiceTraffic | ServerTraffic) -> Sums:
    status = each.status.get
    counts = [
        each.connections,
        each.new_connections,
        each.requests,
        each.unserved,
        status("1xx", 0),
        status("2xx", 0),
        status("3xx", 0),
        status("4xx", 0),
        status("5xx", 0),
        status("other", 0),
        each.bytes_in,
        each.bytes_out,
    ]
    if max(counts) > MOST:
        counts = [min(count, MOST) for count in counts]
    latency = dict(each.latency.buckets)
    if latency and max(latency.values()) > MOST:
        latency = {index: min(count, MOST) for index, count in latency.items()}
    return Sums(counts, latency)
