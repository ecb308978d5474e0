"""A node that rolls documents out over a fleet, all in memory: the node's own parts, and service engines that act."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.config.compile import Target
from avinet.config.desired import Desired
from avinet.config.documents import Documents
from avinet.config.rollouts import Rollouts
from avinet.config.states import States
from avinet.controller.rollouts.driver import RolloutDriver
from avinet.controller.rollouts.observed import Observed
from avinet.telemetry.fleet import Fleet as Telemetry
from avinet.wire.config import Config, ConfigState, ConfigVersion, Document
from avinet.wire.report import Report, ServerHealth, ServiceTraffic
from avinet.wire.rollout import Rollout, RolloutPlan
from tests.config.making import Certificates, Fleet, audited, fired, web
from tests.store.memory import MemoryStore

REPORT_S = 10
CRASHED_S = 5


class Dying:
    """A store for a node that is killed before or after its call number `point` of the store: nothing comes back."""

    def __init__(self, store: MemoryStore, point: int) -> None:
        self._store = store
        self._left = point
        self.killed = False

    async def _pass(self) -> None:
        self._left -= 1
        self.killed = self.killed or not self._left
        if self.killed:
            await Deferred()

    def watch(self, *arguments: Any) -> Any:
        return self._store.watch(*arguments)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def called(*arguments: Any, **options: Any) -> Any:
            await self._pass()
            answer = await getattr(self._store, name)(*arguments, **options)
            await self._pass()
            return answer

        return called


@dataclass
class Engine:
    """A service engine. What its servers do follows from the port that it serves at: see `FleetCase`."""

    id: str
    since: float = 0.0
    hello: object | None = "hello"
    connected: bool = True
    applied: ConfigVersion | None = None
    refused: ConfigVersion | None = None
    config: Config = field(default_factory=Config)
    reported: float = -1000.0
    stuck: bool = False
    crashed: float | None = None
    said: list[ServerHealth] = field(default_factory=list)


class NodeInMemory:
    """The parts of a node that roll-outs need, on `store`."""

    def __init__(self, case: FleetCase, store: Any) -> None:
        clock, self._case = case.clock, case
        self.tasks = Tasks()
        self.documents = Documents(clock, store, case.fleet, Certificates(), clock.seconds, audited)
        self.states = States(clock, store)
        self.desired = Desired(clock, store, self.documents, case.fleet, lambda id: None, lambda: 0.5)
        self.telemetry = Telemetry()
        self.observed = Observed(
            clock, self._connection, self.desired, self.states.get, self.telemetry.get, clock.seconds
        )
        self.rollouts = Rollouts(store, self.documents.versions, clock.seconds, audited)
        self.driver = RolloutDriver(
            clock, self.tasks, "node-1", self.rollouts, self.documents, self.desired, self.observed, self._enrolled
        )

    async def start(self) -> None:
        await self.states.start()
        await self.desired.start()
        self.driver.start()

    def stop(self) -> None:
        """As when it is killed: nothing is written any more."""
        self.desired.stop()
        self.tasks.stop()
        self.states._said._tasks.stop()

    def _connection(self, id: str) -> Any:
        engine = self._case.engines.get(id)
        return engine if engine is not None and engine.connected else None

    def _enrolled(self) -> list[Target]:
        return [Target(id, labels) for id, labels in self._case.fleet.engines.items() if id in self._case.engines]


class FleetCase(SynchronousTestCase):
    """`count` service engines that run document `web` at port 80.

    A document at a port in `down` has servers that are all down, at one in `failing` it answers with 5xx, one in
    `refusing` is refused, one in `lost` costs the tunnel. One in `crashing` costs it so many seconds after each dial,
    for `CRASHED_S`, whether or not it was acknowledged by then.
    """

    count = 10
    requests = 10
    """In a second, to each virtual service."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100_000)
        self.store = MemoryStore(self.clock)
        self.fleet = Fleet(**{f"se_{each}": {} for each in range(self.count)})
        self.engines = {id: Engine(id, self.clock.seconds()) for id in self.fleet.engines}
        self.down: set[int] = set()
        self.failing: set[int] = set()
        self.refusing: set[int] = set()
        self.lost: set[int] = set()
        self.crashing: dict[int, int] = {}
        self.start(self.store)
        self.apply(web("web", 80))
        self.run_for(REPORT_S + 2)

    def start(self, store: Any) -> None:
        """A node, which finds what the store has; service engines say their state with their hellos."""
        self.node = NodeInMemory(self, store)
        starting = fired(self.node.start())
        starting.addErrback(lambda failure: None)
        self.addCleanup(self.node.stop)
        for engine in self.engines.values():
            engine.reported = -1000.0
            if engine.connected:
                self.dial(engine.id)
        self.settle()

    def restart(self, store: Any = None) -> None:
        """The node is killed, and started again."""
        self.node.stop()
        self.start(store or self.store)

    def settle(self) -> None:
        self.clock.pump([0] * (20 + self.count // 10))

    def apply(self, document: Document, **fields: Any) -> Any:
        applying = fired(self.node.documents.apply(document, "ada", **fields))
        self.settle()
        return self.successResultOf(applying)

    def roll(self, document: Document, **plan: Any) -> None:
        self.apply(document, plan=RolloutPlan(**plan))

    def shown(self, name: str = "web") -> Rollout:
        return self.successResultOf(fired(self.node.driver.show(name)))

    def do(self, what: str, *, name: str = "web", **fields: Any) -> Rollout:
        doing = fired(getattr(self.node.driver, what)(name, "bob", **fields))
        self.settle()
        return self.successResultOf(doing)

    def run_for(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.settle()
            for engine in list(self.engines.values()):
                self.act(engine)

    def run_until(self, seen: Callable[[], Any], seconds: int = 600) -> None:
        for _ in range(seconds):
            if seen():
                return
            self.run_for(1)
        self.fail(f"not within {seconds} s: {self.shown()}")

    # service engines

    def dial(self, id: str) -> None:
        engine = self.engines[id]
        engine.connected, engine.since = True, self.clock.seconds()
        engine.reported = -1000.0
        self.node.observed.ready(id)
        self.node.states.said(id, ConfigState(applied=engine.applied), "boot")

    def hang_up(self, id: str) -> None:
        self.engines[id].connected = False
        self.node.observed.gone(id)

    def act(self, engine: Engine) -> None:
        """What a service engine does in a second."""
        node, now = self.node, self.clock.seconds()
        if not engine.connected:
            if engine.crashed is not None and now - engine.crashed >= CRASHED_S:
                engine.crashed = None
                self.dial(engine.id)
            return
        push = node.desired.push(engine.id)
        compiled = node.desired.compiled(engine.id) if push is not None and self.crashing else None
        for port in {each.port for each in compiled.config.virtual_services} if compiled is not None else ():
            if now - engine.since >= self.crashing.get(port, sys.maxsize):
                engine.crashed = now
                self.hang_up(engine.id)
                return
        if push is not None and not engine.stuck and push.version not in (engine.applied, engine.refused):
            config = node.desired.compiled(engine.id)
            assert config is not None
            ports = {each.port for each in config.config.virtual_services}
            if ports & self.refusing:
                engine.refused = push.version
                node.states.refused(engine.id, push.version, "port is taken")
            else:
                engine.applied, engine.config = push.version, config.config
                node.states.answered(engine.id, ConfigState(applied=push.version))
                if ports & self.lost:
                    self.hang_up(engine.id)
                    return
        health = self.health(engine)
        if now - engine.reported >= REPORT_S or health != engine.said:
            self.report(engine, health)

    def ports(self, engine: Engine) -> set[int]:
        return {each.port for each in engine.config.virtual_services}

    def health(self, engine: Engine) -> list[ServerHealth]:
        bad = {service.pool for service in engine.config.virtual_services if service.port in self.down}
        return [
            ServerHealth(pool=pool.name, server=each.name, state="down" if pool.name in bad else "up", since=1.0)
            for pool in engine.config.pools
            for each in pool.servers
        ]

    def report(self, engine: Engine, health: list[ServerHealth]) -> None:
        if engine.hello is None:
            return
        now = self.clock.seconds()
        first = engine.reported < 0
        elapsed = min(REPORT_S, int(now - engine.reported))
        traffic = [
            ServiceTraffic(
                name=each.name,
                requests=elapsed * self.requests,
                status={"5xx" if each.port in self.failing else "2xx": elapsed * self.requests}
                if each.mode == "http"
                else {},
                unserved=elapsed * self.requests if each.mode == "tcp" and each.port in self.failing else 0,
            )
            for each in engine.config.virtual_services
        ]
        report = Report(
            seq=1,
            boot="boot",
            time=now,
            interval_s=10,
            health=health if first or health != engine.said else None,
            traffic=traffic if self.requests else [],
        )
        engine.reported, engine.said = now, health
        self.node.telemetry.take(engine.id, report, now)
        self.node.observed.reported(engine.id, report)

    def serving(self, port: int) -> set[str]:
        """Who serves at this port."""
        return {id for id, engine in self.engines.items() if port in self.ports(engine)}

    def audit(self) -> list[str]:
        """The kinds of what was recorded, in order."""
        return [
            entry.value.decode().split()[0]
            for entry in self.successResultOf(fired(self.store.range(b"audit/"))).entries
        ]
