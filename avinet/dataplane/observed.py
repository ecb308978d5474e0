"""What HAProxy says of its frontends and servers, and its records, as health and as traffic since the last report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from avinet.dataplane.counting import Counter
from avinet.dataplane.records import TCP, Record
from avinet.dataplane.runtime import FrontendLine, ServerLine
from avinet.wire.report import ServerHealth, ServiceTraffic


class Observed:
    """What was seen so far: the `health` of each server, and the traffic of each virtual service since it was taken."""

    def __init__(self) -> None:
        self.health: list[ServerHealth] = []
        self._counters: dict[str, Counter] = {}
        self._totals: dict[tuple[str, str], int] = {}
        self._looked = False
        self._service_of: Mapping[str, str] = {}

    def serves(self, service_of: Mapping[str, str]) -> None:
        """The virtual services that use each backend first, by its name."""
        self._service_of = service_of

    def look(self, frontends: Sequence[FrontendLine], servers: Sequence[ServerLine], now: float) -> bool:
        """Take `show stat`, as it is `now` (seconds since 1970); whether the health of a server has changed."""
        for each in frontends:
            counter = self._counter(each.name)
            counter.connections = each.open
            counter.new_connections += self._more(("", each.name), each.total)
        self._count_servers(servers)
        self._looked = True
        known = {(each.pool, each.server): each for each in self.health}
        health: dict[tuple[str, str], ServerHealth] = {}
        for line in servers:
            pool = line.backend.partition(".")[2]
            state, why = _state(line.status), line.check
            old = known.get((pool, line.server))
            if old is not None and old.state == state:
                health[pool, line.server] = old
            else:
                health[pool, line.server] = ServerHealth(
                    pool=pool,
                    server=line.server,
                    state=state,  # type: ignore[arg-type]
                    since=now - line.changed_s,
                    why=why[:200] if state != "up" else "",
                )
        before, self.health = self.health, list(health.values())
        return before != self.health

    def _more(self, of: tuple[str, str], total: int) -> int:
        """How much was added to a total since the last look; a worker begins with 0. What there was before the first
        look was told by another process.
        """
        before, self._totals[of] = self._totals.get(of, 0 if self._looked else total), total
        return total - before if total >= before else total

    def _count_servers(self, lines: Sequence[ServerLine]) -> None:
        """The connections to servers, of which HAProxy does not say for which virtual service they are."""
        for line in lines:
            more = self._more((line.backend, line.server), line.total)
            service = self._service_of.get(line.backend)
            if service is None:
                continue
            key = line.backend.partition(".")[2], line.server
            counter = self._counter(service)
            if line.open or more or key in counter.servers:
                server = counter.server(*key)
                server.connections = line.open
                server.new_connections += more

    def _counter(self, name: str) -> Counter:
        return self._counters.setdefault(name, Counter(name))

    def count(self, records: Sequence[Record]) -> None:
        """Take records of requests and connections that have ended."""
        for each in records:
            counter = self._counter(each.service)
            counter.bytes_in += each.bytes_in
            counter.bytes_out += each.bytes_out
            server = counter.server(each.pool, each.server)
            server.bytes_in += each.bytes_in
            server.bytes_out += each.bytes_out
            status = each.status if each.status != TCP else None
            server.ended(max(0, each.total_ms) / 1000, status, served=each.served)

    def take(self, services: Collection[str]) -> list[ServiceTraffic]:
        """What happened since this was last asked; of those that are none of `services` any more for the last time."""
        taken = [counter.take() for counter in self._counters.values()]
        for name in [each for each in self._counters if each not in services]:
            del self._counters[name]
        return [each for each in taken if each is not None]

    def connections(self, service: str) -> int:
        """How many are open."""
        return self._counter(service).connections


def _state(status: str) -> str:
    """HAProxy's word for a server's state as one of ours."""
    word = status.split()[0] if status else ""
    if word in ("UP", "OPEN", "DRAIN"):
        return "up"
    return "down" if word in ("DOWN", "MAINT", "NOLB") else "unknown"
