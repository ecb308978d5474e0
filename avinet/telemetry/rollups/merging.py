"""How slots are made of others: of pieces, of shorter ones, and that of the fleet of all service engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from avinet.telemetry.rollups.sums import (
    Engine,
    Services,
    add_services,
    one_after_the_other,
    pack,
    part_of,
    unpack_engines,
    unpack_lazily,
    unpack_service,
    unpack_services,
)

FLEET_SERVICES, FLEET_SERVERS = 50_000, 2_000
"""The virtual services of the fleet, and the servers of each, that have a name; the rest is `other`."""
ENGINE_SERVICES = 1000
"""The virtual services of a service engine in 5 min that have a name."""
V = TypeVar("V")


def by_part(named: Mapping[str, V]) -> dict[int, dict[str, V]]:
    """What has names, by the part that each is in."""
    found: dict[int, dict[str, V]] = {}
    for name, each in named.items():
        found.setdefault(part_of(name), {})[name] = each
    return found


def fleet_of(engines: Mapping[str, Engine]) -> Services:
    """What all of them did together."""
    total: Services = {}
    for engine in engines.values():
        add_services(total, unpack_services(engine.services), FLEET_SERVICES, FLEET_SERVERS)
    return total


def both(before: Engine | None, after: Engine | None) -> Engine:
    """What a service engine has reported in two pieces of one slot, of which one may not be there."""
    if before is None or after is None:
        found = before or after
        assert found is not None
        return found
    services = one_after_the_other(unpack_services(each.services) for each in (before, after))
    return Engine(before.reports + after.reports, 1, after.boot, after.seq, msgspec.Raw(pack(services)))


def over_time(parts: Iterable[bytes]) -> dict[str, Engine]:
    """What each service engine of a part did in several slots, from the first to the last."""
    heads: dict[str, Engine] = {}
    totals: dict[str, Services] = {}
    for data in parts:
        for id, each in unpack_engines(data).items():
            add_services(totals.setdefault(id, {}), unpack_services(each.services), ENGINE_SERVICES, FLEET_SERVERS)
            head = heads.get(id)
            if head is not None:
                each.reports, each.slots = each.reports + head.reports, each.slots + head.slots
            heads[id] = each
    for id, head in heads.items():
        head.services = msgspec.Raw(pack(totals[id]))
    return heads


def part_of_fleet(part: int, engines: Iterable[bytes]) -> Services:
    """What all service engines did together for the virtual services in `part`, from all parts of theirs."""
    total: Services = {}
    for data in engines:
        for engine in unpack_engines(data).values():
            packed = unpack_lazily(engine.services)
            mine = {name: unpack_service(each) for name, each in packed.items() if part_of(name) == part}
            if mine:
                add_services(total, mine, FLEET_SERVICES, FLEET_SERVERS)
    return total
