"""Roll-outs whose node is killed, whose store is away, and whose fleet is large."""

from __future__ import annotations

from typing import Any

from avinet.wire.rollout import RolloutPlan
from tests.config.making import fired, web
from tests.controller.rolling import REPORT_S, Dying, FleetCase
from tests.store.memory import MemoryStore

GOOD, BAD = 81, 66


class KilledTests(FleetCase):
    """The node is killed, and another one goes on from what the store has."""

    def test_a_restart_goes_on_with_the_batch_that_is_open_and_observes_it_anew(self) -> None:
        self.roll(web("web", GOOD), batches=("2", "5"), observe_s=30)
        self.run_until(lambda: self.shown().batch == 2 and self.shown().phase == "observing")
        self.run_for(20)
        self.restart()
        self.run_for(25)
        self.assertEqual((self.shown().batch, len(self.serving(GOOD))), (2, 5))
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual(self.audit(), ["rollout-started", *["rollout-batch"] * 3, "rollout-finished"])

    def test_who_does_not_come_back_to_the_node_is_lost_after_a_while_and_not_at_once(self) -> None:
        self.roll(web("web", GOOD), batches=("2",), observe_s=30)
        self.run_until(lambda: self.shown().phase == "observing")
        (first, *_) = self.serving(GOOD)
        self.hang_up(first)
        self.restart()
        self.run_for(20)
        self.assertEqual(self.shown().state, "running")
        self.run_until(lambda: self.shown().state == "rolled-back", 20)

    def test_how_they_were_before_is_known_after_a_restart(self) -> None:
        self.down = {80, GOOD}
        self.run_for(REPORT_S)
        self.roll(web("web", GOOD), batches=("2",), observe_s=30)
        self.run_until(lambda: self.shown().phase == "observing")
        self.restart()
        self.run_until(lambda: self.shown().state == "finished")

    def test_a_node_that_starts_waits_for_its_fleet_before_it_opens_a_batch(self) -> None:
        for id in self.engines:
            self.hang_up(id)
        self.apply(web("web", GOOD), plan=RolloutPlan(batches=("1",), observe_s=5))
        self.restart()
        self.run_for(10)
        self.assertEqual(self.shown().batch, 0)
        for id in self.engines:
            self.dial(id)
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual(self.shown().well, 10)

    def course(self, point: int, *, bad: bool) -> tuple[bool, list[str], int]:
        """A roll-out where the node is killed at a point; whether it was, what was recorded, how many serve it."""
        dying = Dying(self.store, point)
        self.restart(dying)
        port = BAD if bad else GOOD
        self.down = {BAD}
        applying: Any = fired(
            self.node.documents.apply(web("web", port), "ada", plan=RolloutPlan(batches=("1", "5"), observe_s=12))
        )
        most = 0
        for _ in range(200):
            self.run_for(1)
            if dying.killed and self.node.documents.versions._store is dying:
                applying.addErrback(lambda failure: None)
                self.restart()
                if not applying.called and "rollout-started" not in self.audit():
                    self.apply(web("web", port), plan=RolloutPlan(batches=("1", "5"), observe_s=12))
            most = max(most, len(self.serving(port)))
            if self.audit() and self.audit()[-1] in ("rollout-finished", "rollout-rolled-back"):
                break
        self.run_for(3)
        if dying.killed and self.node.documents.versions._store is dying:
            self.restart()
            self.run_for(3)
        return dying.killed, self.audit(), most

    def everywhere(self, *, bad: bool, recorded: list[str]) -> int:
        """Kill it at each point in turn; how many there were."""
        for point in range(1, 2000, 3 if not bad else 2):
            self.setUp()
            killed, audit, most = self.course(point, bad=bad)
            self.assertEqual(audit, recorded, point)
            self.assertEqual(most, 1 if bad else 10, point)
            self.assertEqual(len(self.serving(80 if bad else GOOD)), 10, point)
            self.assertEqual(self.store_is_clean(), True)
            self.node.stop()
            if not killed:
                return point
        raise AssertionError("it has no end")

    def store_is_clean(self) -> bool:
        return not self.successResultOf(fired(self.store.range(b"config/rollout-before/"))).entries

    def test_it_comes_to_the_same_end_wherever_it_is_killed(self) -> None:
        recorded = ["rollout-started", *["rollout-batch"] * 3, "rollout-finished"]
        self.assertGreater(self.everywhere(bad=False, recorded=recorded), 50)

    def test_a_bad_one_is_taken_back_once_wherever_it_is_killed(self) -> None:
        recorded = ["rollout-started", "rollout-batch", "rollout-stopped", "rollout-rolled-back"]
        self.assertGreater(self.everywhere(bad=True, recorded=recorded), 30)

    def test_without_the_store_it_stays_as_it_is_and_goes_on_with_it(self) -> None:
        self.roll(web("web", GOOD), batches=("1",), observe_s=10)
        self.run_until(lambda: self.shown().phase == "observing")
        self.store.unavailable = "no quorum"
        self.run_for(100)
        self.assertEqual(len(self.serving(GOOD)), 1)
        self.store.unavailable = ""
        self.run_until(lambda: self.shown().state == "finished")


class LargeFleetTests(FleetCase):
    count = 2000
    requests = 0

    def test_in_a_large_fleet_somebody_is_always_away_for_a_moment(self) -> None:
        self.roll(web("web", GOOD), batches=("50%",), observe_s=30)
        self.run_until(lambda: self.shown().phase == "observing")
        opened = sorted(self.serving(GOOD))
        for lost in opened[:6]:
            self.hang_up(lost)
            self.run_for(3)
            self.dial(lost)
            self.run_for(3)
        self.assertEqual(self.shown().batch, 2)

    def test_two_thousand_in_four_batches(self) -> None:
        self.roll(web("web", GOOD), observe_s=12)
        self.run_until(lambda: self.shown().state == "finished", 200)
        self.assertEqual((self.shown().batch, self.shown().well), (4, 2000))
        self.assertEqual(len(self.serving(GOOD)), 2000)


class StoreTests(FleetCase):
    def test_it_writes_nothing_while_nothing_happens(self) -> None:
        store: MemoryStore = self.store
        self.roll(web("web", GOOD), batches=("1",), observe_s=1000)
        self.run_until(lambda: self.shown().phase == "observing")
        self.run_for(10)
        before = store.revision
        self.run_for(100)
        self.assertEqual(store.revision, before)
