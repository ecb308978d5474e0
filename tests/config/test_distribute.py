"""Pushes: one at a time, the newest, again after a loss, never again after a refusal; and what a node remembers of it."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config import distribute
from avinet.config.distribute import PUSH_S, Distributor, outstanding
from avinet.config.states import States
from avinet.errors import Conflict, Invalid, Unavailable
from avinet.wire.config import ConfigPush, ConfigState, ConfigVersion
from tests.config.making import Supply, fired, push_of, web
from tests.store.memory import MemoryStore


class Desk:
    """What is desired, set by the test; see `avinet.config.distribute.Wanted`."""

    def __init__(self) -> None:
        self.pushes: dict[str, ConfigPush] = {}
        self.unsettled = False

    def version(self, id: str) -> ConfigVersion | None:
        push = self.pushes.get(id)
        return push.version if push else None

    def push(self, id: str) -> ConfigPush | None:
        return None if self.unsettled else self.pushes.get(id)


class Road:
    """Takes pushes, and leaves their answers to the test; see `avinet.config.distribute.Pusher`."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, int, Deferred[ConfigState]]] = []

    async def push(self, engine_id: str, push: ConfigPush) -> ConfigState:
        answer: Deferred[ConfigState] = Deferred()
        self.pushed.append((engine_id, push.version.revision, answer))
        return await answer


class DistributeCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.states = States(self.clock, self.store)
        self.successResultOf(fired(self.states.start()))
        self.desk, self.road, self.supply = Desk(), Road(), Supply()
        self.distributor = Distributor(self.clock, self.road, self.desk, self.supply, self.states, lambda: 0.5)

    @override
    def tearDown(self) -> None:
        self.distributor.stop()
        self.successResultOf(fired(self.states.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def desire(self, revision: int, id: str = "se-1") -> ConfigVersion:
        self.desk.pushes[id] = push_of(web("a", revision), revision=revision)
        self.distributor.reconsider(id)
        return self.desk.pushes[id].version

    @property
    def revisions(self) -> list[int]:
        return [revision for _, revision, _ in self.road.pushed]

    def acknowledge(self, applied: ConfigVersion) -> None:
        self.road.pushed[-1][2].callback(ConfigState(applied=applied, applied_count=1))

    def lose(self, error: Exception) -> None:
        self.road.pushed[-1][2].errback(error)

    def settled(self) -> None:
        """Nothing more is sent, however long it takes."""
        before = len(self.road.pushed)
        self.clock.pump([1.0] * 100)
        self.assertEqual(len(self.road.pushed), before)


class DeliveryTests(DistributeCase):
    def test_it_is_pushed_as_soon_as_the_tunnel_is_up(self) -> None:
        self.desire(5)
        self.assertEqual(self.revisions, [])
        self.distributor.opened("se-1")
        self.assertEqual(self.revisions, [5])

    def test_it_is_pushed_on_each_change(self) -> None:
        self.distributor.opened("se-1")
        for revision in (5, 6, 7):
            self.acknowledge_next(self.desire(revision))
        self.assertEqual(self.revisions, [5, 6, 7])
        self.settled()

    def acknowledge_next(self, version: ConfigVersion) -> None:
        self.acknowledge(version)
        self.assertEqual(self.states.get("se-1").applied, version)

    def test_what_it_runs_already_is_not_pushed(self) -> None:
        version = self.desire(5)
        self.distributor.said("se-1", ConfigState(applied=version), "boot-1")
        self.distributor.opened("se-1")
        self.settled()
        self.assertEqual(self.revisions, [])

    def test_one_push_at_a_time_and_then_the_newest(self) -> None:
        first = self.desire(5)
        self.distributor.opened("se-1")
        for revision in (6, 7, 8):
            self.desire(revision)
        self.assertEqual(self.revisions, [5])
        self.acknowledge(first)
        self.assertEqual(self.revisions, [5, 8])

    def test_service_engines_do_not_wait_for_one_another(self) -> None:
        for id in ("se-1", "se-2"):
            self.desire(5, id)
            self.distributor.opened(id)
        self.assertEqual([id for id, _, _ in self.road.pushed], ["se-1", "se-2"])

    def test_pushes_under_way_are_bounded(self) -> None:
        self.patch(distribute, "PUSHES", 2)
        self.distributor = Distributor(self.clock, self.road, self.desk, self.supply, self.states, lambda: 0.5)
        for id in ("se-1", "se-2", "se-3", "se-4"):
            self.desire(5, id)
            self.distributor.opened(id)
        self.assertEqual([id for id, _, _ in self.road.pushed], ["se-1", "se-2"])
        self.distributor.closed("se-3")
        self.distributor.closed("se-1")
        self.assertEqual([id for id, _, _ in self.road.pushed], ["se-1", "se-2", "se-4"])

    def test_the_newest_is_sent_when_its_turn_comes(self) -> None:
        self.patch(distribute, "PUSHES", 1)
        self.distributor = Distributor(self.clock, self.road, self.desk, self.supply, self.states, lambda: 0.5)
        version = self.desire(5)
        self.desire(5, "se-2")
        self.distributor.opened("se-1")
        self.distributor.opened("se-2")
        self.desire(6, "se-2")
        self.acknowledge(version)
        self.assertEqual([(id, revision) for id, revision, _ in self.road.pushed], [("se-1", 5), ("se-2", 6)])

    def test_what_it_runs_by_then_is_not_sent_when_its_turn_comes(self) -> None:
        self.patch(distribute, "PUSHES", 1)
        self.distributor = Distributor(self.clock, self.road, self.desk, self.supply, self.states, lambda: 0.5)
        version, other = self.desire(5), self.desire(5, "se-2")
        self.distributor.opened("se-1")
        self.distributor.opened("se-2")
        self.distributor.said("se-2", ConfigState(applied=other), "boot-1")
        self.acknowledge(version)
        self.assertEqual([id for id, _, _ in self.road.pushed], ["se-1"])
        self.desire(6, "se-2")
        self.assertEqual([id for id, _, _ in self.road.pushed], ["se-1", "se-2"])

    def test_thousands_whose_turn_comes_when_nothing_is_desired_any_more_have_it_one_after_the_other(self) -> None:
        many = [f"se-{number}" for number in range(5000)]
        for id in many:
            self.desire(5, id)
            self.distributor.opened(id)
        for id in many[distribute.PUSHES :]:
            del self.desk.pushes[id]
        for _, _, answer in list(self.road.pushed):
            answer.callback(ConfigState(applied=self.desk.pushes["se-0"].version, applied_count=1))
        self.assertEqual([id for id, _, _ in self.road.pushed], many[: distribute.PUSHES])
        self.desire(6, many[-1])
        self.assertEqual(self.revisions[-1], 6)

    def test_a_push_that_was_lost_is_tried_again_ever_more_seldom(self) -> None:
        version = self.desire(5)
        self.distributor.opened("se-1")
        waits = []
        for _ in range(8):
            self.lose(Unavailable("no route", retry_after_s=0))
            started, count = self.clock.seconds(), len(self.road.pushed)
            while len(self.road.pushed) == count:
                self.clock.advance(0.5)
            waits.append(self.clock.seconds() - started)
        self.assertEqual(waits, [0.5, 1, 2, 4, 8, 15, 15, 15])
        self.acknowledge(version)
        self.settled()

    def test_after_a_success_it_is_patient_no_more(self) -> None:
        version = self.desire(5)
        self.distributor.opened("se-1")
        for _ in range(5):
            self.lose(Unavailable("no route", retry_after_s=0))
            self.clock.advance(30)
        self.acknowledge(version)
        self.desire(6)
        self.lose(Unavailable("no route", retry_after_s=0))
        self.clock.advance(0.5)
        self.assertEqual(self.revisions[-2:], [6, 6])

    def test_it_waits_as_long_as_the_service_engine_asks(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.lose(Unavailable("busy", retry_after_s=20))
        self.clock.advance(20)
        self.assertEqual(self.revisions, [5])
        self.clock.advance(0.5)
        self.assertEqual(self.revisions, [5, 5])

    def test_what_is_newer_by_then_is_what_is_tried(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.lose(Unavailable("no route", retry_after_s=0))
        self.desire(6)
        self.assertEqual(self.revisions, [5])
        self.clock.advance(1)
        self.assertEqual(self.revisions, [5, 6])

    def test_a_push_without_an_answer_is_given_up_and_tried_again(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.clock.advance(PUSH_S)
        self.clock.advance(2)
        self.assertEqual(self.revisions, [5, 5])

    def test_a_lower_fence_is_tried_again(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.lose(Conflict("another node owns it"))
        self.clock.advance(1)
        self.assertEqual(self.revisions, [5, 5])

    def test_a_fault_of_ours_is_logged_and_tried_again(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.lose(ArithmeticError())
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        self.clock.advance(1)
        self.assertEqual(self.revisions, [5, 5])

    def test_an_answer_that_acknowledges_nothing_is_no_acknowledgement(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.road.pushed[-1][2].callback(ConfigState())
        self.assertEqual(self.revisions, [5])
        self.clock.advance(1)
        self.assertEqual(self.revisions, [5, 5])

    def test_what_is_about_to_change_is_sent_when_it_has(self) -> None:
        self.desk.unsettled = True
        self.desire(5)
        self.distributor.opened("se-1")
        self.settled()
        self.desk.unsettled = False
        self.desire(6)
        self.assertEqual(self.revisions, [6])


class RefusalTests(DistributeCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.version = self.desire(5)
        self.distributor.said("se-1", ConfigState(), "boot-1")
        self.distributor.opened("se-1")
        self.lose(Invalid("port 5 is in use"))

    def test_the_reason_is_known(self) -> None:
        state = self.states.get("se-1")
        self.assertEqual((state.applied, state.refused, state.reason), (None, self.version, "port 5 is in use"))

    def test_it_is_not_tried_again(self) -> None:
        self.settled()

    def test_it_is_not_tried_again_over_the_next_tunnel(self) -> None:
        self.distributor.closed("se-1")
        self.distributor.opened("se-1")
        self.distributor.said("se-1", ConfigState(), "boot-1")
        self.settled()
        self.assertEqual(self.states.get("se-1").reason, "port 5 is in use")

    def test_something_else_that_is_desired_is_tried(self) -> None:
        self.acknowledge_sixth()
        self.assertIsNone(self.states.get("se-1").refused)

    def acknowledge_sixth(self) -> None:
        version = self.desire(6)
        self.assertEqual(self.revisions, [5, 6])
        self.acknowledge(version)

    def test_it_is_tried_again_after_a_boot(self) -> None:
        self.distributor.said("se-1", ConfigState(), "boot-2")
        self.assertEqual(self.revisions, [5, 5])

    def test_a_service_engine_that_took_it_after_all_is_believed(self) -> None:
        self.distributor.said("se-1", ConfigState(applied=self.version), "boot-1")
        self.assertEqual(self.states.get("se-1"), ConfigState(applied=self.version))
        self.settled()

    def test_a_refusal_that_it_tells_itself_is_respected(self) -> None:
        self.distributor.said("se-1", ConfigState(refused=self.version, reason="no"), "boot-2")
        self.settled()


class TunnelTests(DistributeCase):
    def test_nothing_is_sent_without_a_tunnel(self) -> None:
        self.distributor.opened("se-1")
        self.distributor.closed("se-1")
        self.desire(5)
        self.settled()
        self.assertEqual(self.revisions, [])

    def test_a_push_ends_with_its_tunnel(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.distributor.closed("se-1")
        self.settled()
        self.distributor.opened("se-1")
        self.assertEqual(self.revisions, [5, 5])

    def test_waiting_ends_with_the_tunnel(self) -> None:
        self.desire(5)
        self.distributor.opened("se-1")
        self.lose(Unavailable("no route", retry_after_s=0))
        self.distributor.closed("se-1")
        self.settled()

    def test_a_new_tunnel_takes_the_place_of_the_old_one(self) -> None:
        version = self.desire(5)
        self.distributor.opened("se-1")
        self.distributor.opened("se-1")
        self.assertEqual(self.revisions, [5, 5])
        self.acknowledge(version)
        self.settled()

    def test_an_acknowledgement_that_was_lost_is_made_good_by_the_hello(self) -> None:
        version = self.desire(5)
        self.distributor.opened("se-1")
        self.distributor.closed("se-1")
        self.distributor.said("se-1", ConfigState(applied=version), "boot-1")
        self.distributor.opened("se-1")
        self.assertEqual(self.revisions, [5])
        self.assertFalse(outstanding(version, self.states.get("se-1")))

    def test_a_service_engine_that_lost_its_memory_is_pushed_again(self) -> None:
        version = self.desire(5)
        self.distributor.opened("se-1")
        self.acknowledge(version)
        self.distributor.said("se-1", ConfigState(), "boot-2")
        self.assertEqual(self.revisions, [5, 5])


class StatesTests(DistributeCase):
    def restarted(self) -> States:
        states = States(self.clock, self.store)
        self.successResultOf(fired(states.start()))
        self.addCleanup(lambda: self.successResultOf(fired(states.stop())))
        return states

    def test_what_was_said_is_written_in_batches_and_read_at_the_start(self) -> None:
        version = self.desire(5)
        for each in range(100):
            self.distributor.said(f"se-{each}", ConfigState(applied=version), "boot-1")
        self.assertEqual(self.store.written, [])
        self.clock.advance(5)
        self.assertEqual(len(self.store.written), 2)
        self.assertEqual(self.restarted().get("se-99").applied, version)

    @override
    def tearDown(self) -> None:
        self.doCleanups()
        super().tearDown()

    def test_what_is_said_again_is_not_written_again(self) -> None:
        for _ in range(3):
            self.distributor.said("se-1", ConfigState(reason="x"), "boot-1")
            self.clock.advance(5)
        self.assertEqual(len(self.store.written), 1)

    def test_the_last_words_are_written_at_the_end(self) -> None:
        self.distributor.said("se-1", ConfigState(reason="x"), "boot-1")
        self.successResultOf(fired(self.states.stop()))
        self.assertEqual(self.restarted().get("se-1").reason, "x")

    def test_what_could_not_be_written_is_written_later(self) -> None:
        self.distributor.said("se-1", ConfigState(reason="x"), "boot-1")
        self.store.unavailable = "no quorum"
        self.clock.advance(5)
        self.store.unavailable = ""
        self.clock.advance(5)
        self.assertEqual(self.restarted().get("se-1").reason, "x")

    def test_one_that_is_gone_is_forgotten(self) -> None:
        self.distributor.said("se-1", ConfigState(reason="x"), "boot-1")
        self.clock.advance(5)
        self.states.forget("se-1")
        self.clock.advance(5)
        self.assertEqual(self.restarted().get("se-1"), ConfigState())


class SupplyTests(DistributeCase):
    def test_what_a_configuration_needs_goes_before_it(self) -> None:
        self.supply.wanting["se-1"] = ["shop"]
        self.desire(5)
        self.distributor.opened("se-1")
        self.assertEqual((len(self.supply.bringing), self.revisions), (1, []))
        self.supply.brought()
        self.assertEqual(self.revisions, [5])

    def test_what_is_needed_by_then_is_brought_too(self) -> None:
        self.supply.wanting["se-1"] = ["shop"]
        self.desire(5)
        self.distributor.opened("se-1")
        first = self.supply.bringing[0][1]
        self.supply.wanting["se-1"] = ["blog"]
        first.callback(None)
        self.assertEqual((len(self.supply.bringing), self.revisions), (2, []))
        self.supply.brought()
        self.assertEqual(self.revisions, [5])

    def test_what_is_needed_anew_is_brought_without_a_configuration(self) -> None:
        version = self.desire(5)
        self.distributor.opened("se-1")
        self.acknowledge(version)
        self.supply.wanting["se-1"] = ["shop"]
        self.distributor.reconsider("se-1")
        self.assertEqual(len(self.supply.bringing), 1)
        self.supply.brought()
        self.settled()
        self.assertEqual(self.revisions, [5])

    def test_what_did_not_get_through_is_tried_again(self) -> None:
        self.supply.wanting["se-1"] = ["shop"]
        version = self.desire(5)
        self.distributor.opened("se-1")
        self.supply.bringing[0][1].errback(Unavailable("no route"))
        self.assertIn("no route", self.distributor.problem("se-1"))
        self.clock.advance(2)
        self.assertEqual(len(self.supply.bringing), 2)
        self.supply.brought()
        self.assertEqual(self.revisions, [5])
        self.acknowledge(version)
        self.assertEqual(self.distributor.problem("se-1"), "")

    def test_a_configuration_waits_for_what_it_can_not_be_brought(self) -> None:
        self.supply.waiting["se-1"] = "certificate shop was refused"
        self.desire(5)
        self.distributor.opened("se-1")
        self.settled()
        self.assertEqual((self.revisions, self.distributor.problem("se-1")), ([], "certificate shop was refused"))
        self.supply.waiting.clear()
        self.distributor.reconsider("se-1")
        self.assertEqual(self.revisions, [5])

    def test_it_waits_also_when_that_comes_out_while_it_is_brought(self) -> None:
        self.supply.wanting["se-1"] = ["shop"]
        self.desire(5)
        self.distributor.opened("se-1")
        self.supply.waiting["se-1"] = "certificate shop was refused"
        self.supply.brought()
        self.settled()
        self.assertEqual(self.revisions, [])

    def test_a_tunnel_that_is_lost_brings_nothing_more(self) -> None:
        self.supply.wanting["se-1"] = ["shop"]
        self.desire(5)
        self.distributor.opened("se-1")
        self.distributor.closed("se-1")
        self.settled()
        self.assertEqual((len(self.supply.bringing), self.revisions), (1, []))
