"""From an operator's document to the load balancer of a service engine and back, over everything in between."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config.apply import Applier
from avinet.config.compile import compile_for
from avinet.config.desired import Desired
from avinet.config.distribute import Distributor
from avinet.config.documents import Documents
from avinet.config.states import States
from avinet.errors import Unavailable
from avinet.wire.config import ConfigPush, ConfigState, Document
from tests.config.balancer import TAKEN_PORT, Balancer
from tests.config.making import Certificates, Fleet, Supply, audited, fired, web
from tests.store.memory import MemoryStore


class Engine:
    """A service engine: its load balancer outlives its processes."""

    def __init__(self, clock: Clock, file: Path) -> None:
        self.clock, self.file = clock, file
        self.boots = 0
        self.balancer = Balancer()
        self.boot()

    def boot(self) -> None:
        self.boots += 1
        self.applier = Applier(
            self.clock, self.balancer, self.file, lambda call: succeed(call()), lambda: 0.5, lambda config: None
        )
        self.applier.start()


class Tunnels:
    """Carries pushes to the engines; `loses_answers` lets each arrive, and its answer never."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.engines = engines
        self.loses_answers = False
        self.pushed: list[str] = []

    async def push(self, engine_id: str, push: ConfigPush) -> ConfigState:
        self.pushed.append(engine_id)
        state = await self.engines[engine_id].applier.configure(push)
        if self.loses_answers:
            raise Unavailable("the tunnel was lost")
        return state


class StoryTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.fleet = Fleet(se_1={"site": "x"}, se_2={"site": "y"})
        folder = Path(self.mktemp())
        folder.mkdir()
        self.engines = {id: Engine(self.clock, folder / f"{id}.json") for id in self.fleet.engines}
        self.tunnels = Tunnels(self.engines)
        self.start_node()

    def start_node(self) -> None:
        self.documents = Documents(self.clock, self.store, self.fleet, Certificates(), self.clock.seconds, audited)
        self.states = States(self.clock, self.store)
        self.desired = Desired(
            self.clock, self.store, self.documents, self.fleet, lambda id: self.distributor.reconsider(id), lambda: 0.5
        )
        self.distributor = Distributor(self.clock, self.tunnels, self.desired, Supply(), self.states, lambda: 0.5)
        self.successResultOf(fired(self.states.start()))
        self.successResultOf(fired(self.desired.start()))
        self.clock.advance(0)

    def stop_node(self) -> None:
        self.distributor.stop()
        self.desired.stop()
        self.successResultOf(fired(self.states.stop()))

    def dial(self, id: str) -> None:
        engine = self.engines[id]
        self.distributor.said(id, engine.applier.state, f"boot-{engine.boots}")
        self.distributor.opened(id)

    def apply(self, *documents: Document) -> None:
        for each in documents:
            self.successResultOf(fired(self.documents.apply(each, "ada")))
        self.clock.advance(0)

    def run_by(self, id: str, *documents: Document) -> None:
        """The service engine runs what these documents make, and both sides know it."""
        self.assertEqual(self.engines[id].balancer.running, compile_for(id, self.fleet.engines[id], documents))
        self.assertEqual(self.engines[id].applier.state.applied, self.desired.version(id))
        self.assertEqual(self.states.get(id).applied, self.desired.version(id))

    def test_each_gets_its_own_as_soon_as_it_dials_and_on_each_change(self) -> None:
        self.apply(web("all", 80), web("x", 81, site="x"))
        self.dial("se-1")
        self.dial("se-2")
        self.run_by("se-1", web("all", 80), web("x", 81, site="x"))
        self.run_by("se-2", web("all", 80))
        self.apply(web("all", 90))
        self.run_by("se-1", web("all", 90), web("x", 81, site="x"))
        self.run_by("se-2", web("all", 90))
        self.assertEqual(sorted(self.tunnels.pushed), ["se-1", "se-1", "se-2", "se-2"])

    def test_a_refused_one_leaves_the_last_good_one_until_it_is_mended(self) -> None:
        self.apply(web("all", 80))
        self.dial("se-1")
        self.apply(web("all", TAKEN_PORT))
        self.assertEqual(self.engines["se-1"].balancer.running, compile_for("se-1", {}, [web("all", 80)]))
        self.assertEqual(self.states.get("se-1").reason, "port 2 is taken")
        self.clock.pump([10.0] * 10)
        self.assertEqual(self.tunnels.pushed, ["se-1", "se-1"])
        self.apply(web("all", 81))
        self.run_by("se-1", web("all", 81))

    def test_a_restart_of_the_node_pushes_nothing(self) -> None:
        self.apply(web("all", 80))
        self.dial("se-1")
        self.stop_node()
        self.start_node()
        self.dial("se-1")
        self.clock.advance(60)
        self.assertEqual(self.tunnels.pushed, ["se-1"])
        self.run_by("se-1", web("all", 80))

    def test_a_lost_acknowledgement_does_no_harm(self) -> None:
        self.apply(web("all", 80))
        self.tunnels.loses_answers = True
        self.dial("se-1")
        self.distributor.closed("se-1")
        self.store.unavailable = "killed"
        self.stop_node()
        self.store.unavailable = ""
        self.tunnels.loses_answers = False
        self.start_node()
        self.dial("se-1")
        self.assertEqual(self.tunnels.pushed, ["se-1"])
        self.run_by("se-1", web("all", 80))

    def test_a_service_engine_runs_on_alone_across_its_own_restart(self) -> None:
        self.apply(web("all", 80))
        self.dial("se-1")
        self.stop_node()
        engine = self.engines["se-1"]
        self.successResultOf(fired(engine.applier.stop()))
        engine.balancer.running = None
        engine.boot()
        self.assertEqual(engine.balancer.running, compile_for("se-1", {}, [web("all", 80)]))
        self.start_node()
        self.dial("se-1")
        self.assertEqual(self.tunnels.pushed, ["se-1"])

    @override
    def tearDown(self) -> None:
        self.stop_node()
        for engine in self.engines.values():
            self.successResultOf(fired(engine.applier.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
