"""What a node sees of service engines, as far as roll-outs ask for it: tunnels, acknowledgements, health, traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from avinet.config.health import BEFORE_DOWN, LOSSES, LOSSES_S, Before, Now
from avinet.telemetry.fleet import SLOT_S, WINDOW_S
from avinet.wire.config import ConfigState, ConfigVersion, Document, VirtualService
from avinet.wire.report import Report, ServerHealth, ServiceTraffic


class Connection(Protocol):
    """The tunnel of a service engine; see `avinet.controller.sessions.Session`."""

    @property
    def since(self) -> float: ...
    @property
    def hello(self) -> object | None: ...


class Configured(Protocol):
    """What service engines should run; see `avinet.config.desired.Desired`."""

    def version(self, id: str) -> ConfigVersion | None: ...
    def problem(self, id: str) -> str: ...


class Reported(Protocol):
    """What a service engine has reported; see `avinet.telemetry.fleet.Latest`."""

    @property
    def reported(self) -> float: ...
    @property
    def down(self) -> int: ...
    @property
    def health(self) -> list[ServerHealth]: ...
    def traffic(self, now: float) -> list[ServiceTraffic]: ...


@dataclass(frozen=True)
class Concern:
    """The pools and virtual services whose health is that of a document."""

    pools: frozenset[str]
    services: frozenset[str]


def concern(document: Document, others: Iterable[Document]) -> Concern:
    """All that a document defines, the pools of others that it uses, and the virtual services that use its pools."""
    pools, services = {pool.name for pool in document.pools}, {each.name for each in document.virtual_services}
    for other in others:
        services.update(each.name for each in other.virtual_services if not pools.isdisjoint(_uses(each)))
    used = {pool for each in document.virtual_services for pool in _uses(each)}
    return Concern(frozenset(pools | used), frozenset(services))


def _uses(service: VirtualService) -> set[str]:
    return {pool for pool in (service.pool, *(route.pool for route in service.routes)) if pool is not None}


def _errors(traffic: ServiceTraffic) -> int:
    """Requests that were answered with 5xx, or connections that no server took."""
    return traffic.status.get("5xx", 0) + traffic.unserved


class _Counted:
    """What a service engine has reported since it runs one version: requests and errors by virtual service.

    `since` is when the first such report came, of `reports`.
    """

    __slots__ = ("reports", "since", "traffic", "version")

    def __init__(self, version: ConfigVersion | None, since: float) -> None:
        self.version = version
        self.since = since
        self.reports = 1
        self.traffic: dict[str, tuple[int, int]] = {}


class Observed:
    """What is known of each service engine, since this node has started. `now` is the time of day."""

    def __init__(
        self,
        clock: IReactorTime,
        connection: Callable[[str], Connection | None],
        desired: Configured,
        state: Callable[[str], ConfigState],
        latest: Callable[[str], Reported],
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._connection = connection
        self._desired = desired
        self._state = state
        self._latest = latest
        self._now = now
        self._started = clock.seconds()
        self._gone: dict[str, float] = {}
        self._asked: dict[str, tuple[ConfigVersion | None, float]] = {}
        self._lost: dict[str, tuple[ConfigVersion | None, tuple[float, ...]]] = {}
        self._counted: dict[str, _Counted] = {}
        self._services: frozenset[str] | None = None

    # what happens

    def watch(self, services: frozenset[str] | None) -> None:
        """Count the traffic of these virtual services from now on; None for none, but for who has just changed."""
        self._services = services
        if services is None:
            self._asked.clear()

    def ready(self, id: str) -> None:
        """A service engine has a tunnel."""
        self._gone.pop(id, None)

    def gone(self, id: str) -> None:
        """It has none any more."""
        clock = self._gone[id] = self._clock.seconds()
        self._lost[id] = self._desired.version(id), (*self._losses(id), clock)[-LOSSES:]

    def forget(self, id: str) -> None:
        """The service engine is no more."""
        for known in (self._gone, self._asked, self._lost, self._counted):
            known.pop(id, None)

    def reported(self, id: str, report: Report) -> None:
        """It has reported. What the first report after another configuration counts is in part of the former one."""
        version, counted = self._state(id).applied, self._counted.get(id)
        if counted is None or counted.version != version:
            self._counted[id] = _Counted(version, self._clock.seconds())
            return
        counted.reports += 1
        if self._services is None and not self._fresh(counted):
            counted.traffic.clear()
            return
        for each in report.traffic:
            if self._services is None or each.name in self._services:
                requests, errors = counted.traffic.get(each.name, (0, 0))
                counted.traffic[each.name] = requests + each.requests, errors + _errors(each)

    # what is known

    def connected(self, id: str) -> bool:
        """Whether it has a tunnel."""
        return self._connection(id) is not None

    def unsettled(self, id: str, settle_s: float) -> bool:
        """Whether it is too early to say how it is.

        It is away for less than so long, or does not run what it should yet, or has not reported twice since it does:
        what is known of it is that of another version, which may be one that was just taken back.
        """
        connection = self._connection(id)
        if connection is None:
            return self._away_s(id) < settle_s
        wanted, state, counted = self._desired.version(id), self._state(id), self._counted.get(id)
        if wanted is None or state.refused == wanted or self._desired.problem(id):
            return False
        told = connection.hello is None or (counted is not None and counted.version == wanted and counted.reports > 1)
        return state.applied != wanted or not told

    def _fresh(self, counted: _Counted) -> bool:
        """Whether the traffic of the last minute is in part that of another version."""
        return self._clock.seconds() - counted.since < WINDOW_S + SLOT_S

    def _away_s(self, id: str) -> float:
        return self._clock.seconds() - self._gone.get(id, self._started)

    def _losses(self, id: str) -> tuple[float, ...]:
        """When it has lost its tunnel since it should run what it should now, the last `LOSSES` times."""
        version, losses = self._lost.get(id, (None, ()))
        return losses if version == self._desired.version(id) else ()

    def before(self, id: str, of: Concern, least_requests: int) -> Before:
        """How it is, before it has its turn."""
        down, counted = self._down(id, of), self._counted.get(id)
        traffic = counted.traffic if counted is not None and self._fresh(counted) else self._recent(id)
        lately = [each for each in self._losses(id) if self._clock.seconds() - each < LOSSES_S]
        return Before(
            connected=self.connected(id),
            unsteady=len(lately) >= LOSSES,
            problem=bool(self._desired.problem(id)),
            down=down[:BEFORE_DOWN],
            more=max(0, len(down) - BEFORE_DOWN),
            errors={
                name: round(100 * errors / requests, 3)
                for name, (requests, errors) in traffic.items()
                if name in of.services and requests >= least_requests and errors
            },
        )

    def _recent(self, id: str) -> dict[str, tuple[int, int]]:
        """Requests and errors of the last minute, by virtual service."""
        return {each.name: (each.requests, _errors(each)) for each in self._latest(id).traffic(self._now())}

    def now(self, id: str, of: Concern, lost_s: float) -> Now:
        """How it is, since it has its turn; one that is away for less than `lost_s` is asked all the while."""
        connection, clock = self._connection(id), self._clock.seconds()
        wanted, state, counted = self._desired.version(id), self._state(id), self._counted.get(id)
        acknowledged = wanted is not None and state.applied == wanted
        if counted is not None and counted.version != wanted:
            counted = None
        reported = acknowledged and (counted is not None or (connection is not None and connection.hello is None))
        traffic = {name: each for name, each in counted.traffic.items() if name in of.services} if counted else {}
        recent: dict[str, tuple[int, int]] = {}
        if counted and not self._fresh(counted) and any(errors for _, errors in traffic.values()):
            recent = {name: each for name, each in self._recent(id).items() if name in of.services}
        asked = self._asked.get(id)
        if reported or (connection is None and self._away_s(id) >= lost_s):
            asked = None
        elif asked is None or asked[0] != wanted:
            asked = (wanted, clock) if connection is not None else None
        if asked is None:
            self._asked.pop(id, None)
        else:
            self._asked[id] = asked
        return Now(
            connected=connection is not None,
            away_s=0.0 if connection is not None else self._away_s(id),
            asked_s=clock - asked[1] if asked is not None else 0.0,
            losses=tuple(clock - each for each in self._losses(id)),
            refused=state.reason if wanted is not None and state.refused == wanted else None,
            problem=self._desired.problem(id),
            acknowledged=acknowledged,
            reported=reported,
            down=self._down(id, of) if reported else (),
            traffic=traffic,
            recent=recent,
        )

    def _down(self, id: str, of: Concern) -> list[str]:
        """The servers that are down, as POOL/SERVER, in the order of their names."""
        latest = self._latest(id)
        if not latest.down:
            return []
        return sorted(
            f"{each.pool}/{each.server}" for each in latest.health if each.state == "down" and each.pool in of.pools
        )
