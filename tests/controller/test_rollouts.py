"""Roll-outs driven by a node over a fleet in memory: good versions come to all, bad ones stop and are taken back."""

from __future__ import annotations

from typing import Any

from avinet.config.health import Before
from avinet.config.rollout import RolloutRecord
from avinet.errors import Conflict, NotFound, Unavailable
from avinet.wire.rollout import RolloutPlan
from tests.config.making import document, fired, pool, service, web
from tests.controller.rolling import REPORT_S, Dying, Engine, FleetCase
from tests.store.memory import MemoryStore

GOOD, BAD = 81, 66


class GoodTests(FleetCase):
    def test_a_good_version_comes_to_all_in_batches(self) -> None:
        sizes: list[int] = []
        self.roll(web("web", GOOD), batches=("1", "50%"), observe_s=30)

        def ended() -> bool:
            have_it = len(self.serving(GOOD))
            if not sizes or sizes[-1] != have_it:
                sizes.append(have_it)
            return self.shown().state == "finished"

        self.run_until(ended)
        self.assertEqual([size for size in sizes if size], [1, 5, 10])
        shown = self.shown()
        self.assertEqual((shown.opened, shown.well, shown.targets, shown.batch, shown.batches), (10, 10, 10, 3, 3))
        self.assertIsNotNone(shown.ended)
        self.assertEqual(self.audit(), ["rollout-started", *["rollout-batch"] * 3, "rollout-finished"])
        self.run_for(2)
        self.assertEqual(self.successResultOf(fired(self.store.range(b"config/rollout-before/"))).entries, [])

    def test_the_next_batch_waits_until_the_one_before_was_observed(self) -> None:
        self.roll(web("web", GOOD), batches=("1",), observe_s=100)
        self.run_until(lambda: self.shown().phase == "observing")
        self.run_for(95)
        self.assertEqual((len(self.serving(GOOD)), self.shown().phase), (1, "observing"))
        self.run_for(10)
        self.assertEqual(len(self.serving(GOOD)), 10)

    def test_who_does_not_report_after_it_has_acknowledged_is_not_well_yet(self) -> None:
        self.roll(web("web", GOOD), batches=("1",), observe_s=0)
        self.run_until(lambda: self.serving(GOOD))
        (first,) = self.serving(GOOD)
        self.engines[first].reported = self.clock.seconds() + 50  # as if it had just reported, for long
        self.engines[first].said = self.health(self.engines[first])
        self.node.observed._counted.clear()
        self.run_for(40)
        self.assertEqual((self.shown().phase, len(self.serving(GOOD))), ("applying", 1))
        self.run_until(lambda: len(self.serving(GOOD)) == 10)

    def test_a_stock_client_that_never_reports_counts_by_its_acknowledgement(self) -> None:
        for engine in self.engines.values():
            engine.hello = None
        self.roll(web("web", GOOD), batches=("1",), observe_s=5)
        self.run_until(lambda: self.shown().state == "finished")

    def test_nobody_concerned_is_the_end_at_once(self) -> None:
        self.roll(web("web", GOOD, site="nowhere"), batches=("1",), observe_s=1)
        self.run_until(lambda: self.shown().state == "finished")
        self.roll(web("other", 90, site="nowhere"), observe_s=1000)
        self.run_for(5)
        self.assertEqual(self.shown("other").state, "finished")

    def test_servers_that_were_down_before_do_no_harm(self) -> None:
        self.down = {80, GOOD}
        self.run_for(REPORT_S)
        self.roll(web("web", GOOD), batches=("1",), observe_s=10)
        self.run_until(lambda: self.shown().state == "finished")

    def test_errors_of_the_former_version_are_not_those_of_the_new_one(self) -> None:
        self.failing = {80}
        self.run_for(REPORT_S)
        self.roll(web("web", GOOD), batches=("1",), observe_s=30)
        self.run_until(lambda: self.shown().state == "finished")

    def test_what_is_asked_for_is_answered_when_there_is_something_new(self) -> None:
        self.roll(web("web", GOOD), batches=("1",), observe_s=30)
        self.run_until(lambda: self.shown().phase == "observing")
        seen = self.shown().tag
        waiting = fired(self.node.driver.show("web", seen, 600.0))
        self.run_for(5)
        self.assertNoResult(waiting)
        self.run_until(lambda: waiting.called)
        self.assertNotEqual(self.successResultOf(waiting).tag, seen)
        again = fired(self.node.driver.show("web", self.shown().tag, 3.0))
        self.clock.advance(3)
        self.assertTrue(again.called)
        self.failureResultOf(fired(self.node.driver.show("other")), NotFound)


class BadTests(FleetCase):
    def rolled_back(self, port: int = BAD) -> str:
        """A version at this port is stopped after its first batch and taken back; why."""
        before = {id: engine.applied for id, engine in self.engines.items()}
        most = 0

        def ended() -> bool:
            nonlocal most
            most = max(most, len(self.serving(port)))
            return self.shown().state == "rolled-back"

        self.roll(web("web", port), batches=("2", "5"), observe_s=30)
        self.run_until(ended)
        shown = self.shown()
        self.assertLessEqual(most, 2)
        self.assertEqual((shown.batch, shown.opened), (1, 2))
        self.run_for(3)
        untouched = {id for id, engine in self.engines.items() if engine.applied == before[id]}
        self.assertGreaterEqual(len(untouched), 8)
        back = {id for id, engine in self.engines.items() if engine.connected}
        self.assertEqual(self.serving(80) & back, back)
        self.assertEqual(self.audit(), ["rollout-started", "rollout-batch", "rollout-stopped", "rollout-rolled-back"])
        self.assertEqual(self.successResultOf(fired(self.node.documents.get("web"))).version, 3)
        return shown.why

    def test_servers_that_are_down(self) -> None:
        self.down = {BAD}
        self.assertIn("server web-pool/a is down, and 1 more", self.rolled_back())

    def test_requests_that_fail(self) -> None:
        self.failing = {BAD}
        self.assertIn("requests to web-web failed", self.rolled_back())

    def test_requests_that_fail_after_very_many_that_did_not(self) -> None:
        self.roll(web("web", BAD), batches=("1",), observe_s=7200)
        self.run_until(lambda: self.shown().phase == "observing")
        self.run_for(3600)
        self.failing = {BAD}
        self.run_until(lambda: self.shown().state == "rolled-back", 30)
        self.assertIn("requests to web-web failed in the last minute", self.shown().why)

    def test_connections_that_no_server_takes(self) -> None:
        tcp = lambda port: document("web", pool("p", "a"), service("web-web", port, "p", mode="tcp"))  # noqa: E731
        self.apply(tcp(80))
        self.failing = {BAD}
        self.roll(tcp(BAD), batches=("1",), observe_s=30)
        self.run_until(lambda: self.shown().state == "rolled-back")
        self.assertIn("requests to web-web failed", self.shown().why)

    def test_a_configuration_that_is_refused(self) -> None:
        self.refusing = {BAD}
        self.assertIn("it refused the configuration: port is taken", self.rolled_back())

    def test_tunnels_that_are_lost(self) -> None:
        self.lost = {BAD}
        self.assertIn("its tunnel has been gone for 30 s", self.rolled_back())

    def crash_loop(self, *, after_s: int, stuck: bool = False) -> None:
        for engine in self.engines.values():
            engine.stuck = stuck
            engine.since = self.clock.seconds()
        self.crashing = {BAD: after_s}
        self.roll(web("web", BAD), batches=("1",), observe_s=30)
        self.run_until(lambda: self.shown().state == "rolled-back")
        self.assertEqual(self.shown().opened, 1)

    def test_crashes_after_the_acknowledgement(self) -> None:
        """A service engine that comes back in time, each time, holds its batch until it has failed."""
        self.crash_loop(after_s=12)
        self.assertIn("it has lost its tunnel 3 times", self.shown().why)

    def test_crashes_before_the_acknowledgement(self) -> None:
        self.crash_loop(after_s=25, stuck=True)
        self.assertIn("it has lost its tunnel 3 times", self.shown().why)

    def test_crashes_of_the_former_version_are_not_those_of_the_new_one(self) -> None:
        self.crashing = {80: 10, GOOD: 10}
        self.run_for(60)
        self.roll(web("web", GOOD), batches=("3",), observe_s=100)
        self.run_until(lambda: self.shown().state == "finished")

    def test_losses_of_the_tunnel_do_not_put_the_deadline_off(self) -> None:
        self.crash_loop(after_s=70, stuck=True)
        self.assertIn("has not acknowledged, for 120 s", self.shown().why)

    def test_the_time_that_a_former_version_took_is_not_that_of_the_next(self) -> None:
        for engine in self.engines.values():
            engine.stuck = True
        self.roll(web("web", BAD), batches=("3",), auto_rollback=False)
        self.run_until(lambda: self.shown().state == "stopped")
        self.apply(web("web", GOOD), plan=RolloutPlan(batches=("9",), observe_s=30), force=True)
        for engine in self.engines.values():
            engine.stuck = False
        self.run_until(lambda: self.shown().state == "finished")

    def test_harm_of_the_version_before_is_no_excuse_for_the_next(self) -> None:
        for bad in ("down", "failing"):
            self.setUp()
            setattr(self, bad, {BAD, GOOD})
            self.roll(web("web", BAD), batches=("100%",), observe_s=30, auto_rollback=False)
            self.run_until(lambda: self.shown().state == "stopped")
            self.apply(web("web", GOOD), plan=RolloutPlan(batches=("1",), observe_s=30), force=True)
            self.run_until(lambda: self.shown().state == "rolled-back")
            self.assertEqual(self.shown().opened, 1)
            self.roll(web("web", GOOD + 1), batches=("1",), observe_s=30)  # which is just as bad
            getattr(self, bad).add(GOOD + 1)
            self.run_until(lambda: self.shown().state == "rolled-back")
            self.assertEqual(self.shown().opened, 1)

    def test_what_was_not_well_under_the_former_version_is_an_excuse_soon_after_it_came_back(self) -> None:
        self.down = self.failing = {80, GOOD}
        self.run_for(REPORT_S)
        self.roll(web("web", BAD), batches=("5",), observe_s=30)
        self.run_until(lambda: self.shown().batch == 1)
        self.do("abort")
        self.roll(web("web", GOOD), batches=("1",), observe_s=30)
        self.run_until(lambda: self.shown().state == "finished")

    def test_who_never_runs_what_it_should_holds_a_batch_up_for_the_deadline_only(self) -> None:
        for engine in self.engines.values():
            engine.stuck = True
        self.apply(web("other", 90))
        self.roll(web("web", GOOD), batches=("1",))
        self.run_for(118)
        self.assertEqual(self.shown().batch, 0)
        self.run_until(lambda: self.shown().batch == 1, 5)

    def test_who_does_not_acknowledge_in_time(self) -> None:
        for engine in self.engines.values():
            engine.stuck = True
        self.roll(web("web", GOOD), batches=("1",))
        self.run_for(119)
        self.assertEqual(self.shown().state, "running")
        self.run_until(lambda: self.shown().state == "rolled-back", 10)
        self.assertIn("has not acknowledged, for 120 s", self.shown().why)

    def test_without_automatic_rollback_it_stays_as_it_is_until_somebody_decides(self) -> None:
        self.down = {BAD}
        self.roll(web("web", BAD), batches=("1",), observe_s=20, auto_rollback=False)
        self.run_until(lambda: self.shown().state == "stopped")
        self.run_for(300)
        shown = self.shown()
        self.assertEqual((shown.state, shown.failed, len(self.serving(BAD))), ("stopped", 1, 1))
        self.assertEqual(self.do("abort").state, "rolled-back")
        self.run_for(3)
        self.assertEqual(len(self.serving(80)), 10)

    def test_who_goes_on_after_a_stop_accepts_those_that_have_failed(self) -> None:
        self.down = {BAD}
        self.roll(web("web", BAD), batches=("1",), observe_s=20, auto_rollback=False)
        self.run_until(lambda: self.shown().state == "stopped")
        self.assertEqual(self.do("resume").state, "running")
        self.run_until(lambda: self.shown().state == "stopped")
        self.assertEqual(len(self.serving(BAD)), 10)
        self.do("resume")
        self.run_until(lambda: self.shown().state == "finished")

    def test_who_goes_on_accepts_nobody_else_in_their_place(self) -> None:
        self.roll(web("web", GOOD), batches=("2", "4"), observe_s=30, auto_rollback=False)
        self.run_until(lambda: self.shown().phase == "observing")
        first = self.serving(GOOD)
        for id in first:
            self.hang_up(id)
        self.run_until(lambda: self.shown().state == "stopped")
        self.do("resume")
        for id in first:
            self.dial(id)
        self.run_until(lambda: self.shown().batch == 2 and len(self.serving(GOOD)) == 4)
        self.hang_up(min(self.serving(GOOD) - first))
        self.run_until(lambda: self.shown().state == "stopped", 60)
        self.assertEqual((self.shown().failed, self.shown().opened), (1, 4))

    def test_so_many_may_fail(self) -> None:
        self.roll(web("web", GOOD), batches=("5",), observe_s=30, max_failed=2)
        self.run_until(lambda: len(self.serving(GOOD)) == 5)
        for id in sorted(self.serving(GOOD))[:2]:
            self.hang_up(id)
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual((self.shown().failed, self.shown().well), (2, 8))

    def test_one_that_fails_late_stops_the_batches_after_it(self) -> None:
        self.roll(web("web", BAD), batches=("1", "2"), observe_s=20)
        self.run_until(lambda: self.shown().batch == 2)
        self.down = {BAD}
        self.run_until(lambda: self.shown().state == "rolled-back", 5)

    def test_the_last_batch_is_observed_too(self) -> None:
        self.roll(web("web", BAD), batches=("1",), observe_s=20)
        self.run_until(lambda: len(self.serving(BAD)) == 10)
        self.down = {BAD}
        self.run_until(lambda: self.shown().state == "rolled-back", 20)
        self.run_for(3)
        self.assertEqual(len(self.serving(80)), 10)

    def test_pools_of_other_documents_are_not_its_business(self) -> None:
        self.apply(web("other", 90))
        self.run_for(3)
        self.roll(web("web", GOOD), batches=("1",), observe_s=20)
        self.run_until(lambda: self.shown().phase == "observing")
        self.down = {90}
        self.run_until(lambda: self.shown().state == "finished")

    def test_a_pool_of_another_document_is_when_it_is_used(self) -> None:
        self.apply(document("pools", pool("p", "a"), service("old", 70, "p")))
        self.run_for(3)
        self.down = {BAD}
        self.roll(document("web", service("web-web", BAD, "p")), batches=("1",), observe_s=20)
        self.run_until(lambda: self.shown().state == "rolled-back")
        self.assertIn("server p/a is down", self.shown().why)

    def test_virtual_services_of_others_that_use_its_pools_count_for_it(self) -> None:
        self.apply(document("pools", pool("p", "a")))
        self.apply(document("services", service("s", 70, "p")))
        self.run_for(3)
        self.roll(document("pools", pool("p", "a", "b")), batches=("1",), observe_s=1000)
        self.run_until(lambda: self.shown("pools").phase == "observing")
        self.failing = {70}
        self.run_until(lambda: self.shown("pools").state == "rolled-back", 30)
        self.assertIn("requests to s failed", self.shown("pools").why)


class AwayTests(FleetCase):
    def test_who_is_away_holds_nothing_up_for_long_and_gets_it_when_it_comes(self) -> None:
        away = ["se-3", "se-7"]
        for id in away:
            self.hang_up(id)
        self.run_for(40)
        self.roll(web("web", GOOD), batches=("5",), observe_s=20)
        self.run_until(lambda: self.shown().state == "finished", 120)
        shown = self.shown()
        self.assertEqual((shown.opened, shown.well, shown.waiting, shown.failed), (10, 8, 2, 0))
        self.assertEqual(len(self.serving(GOOD)), 8)
        for id in away:
            self.dial(id)
        self.run_for(2)
        self.assertEqual(len(self.serving(GOOD)), 10)

    def test_who_comes_back_while_it_runs_is_judged_like_all(self) -> None:
        self.hang_up("se-3")
        self.run_for(40)
        self.roll(web("web", BAD), batches=("100%",), observe_s=100)
        self.run_until(lambda: self.shown().phase == "observing")
        self.assertEqual(self.shown().waiting, 1)
        self.dial("se-3")
        self.run_for(15)
        self.assertEqual((self.shown().waiting, self.shown().well), (0, 10))
        self.down = {BAD}
        self.run_until(lambda: self.shown().state == "rolled-back", 5)

    def test_one_that_is_new_is_not_blamed_for_what_was_so_before(self) -> None:
        self.down = self.failing = {80, GOOD}
        self.run_for(90)
        self.roll(web("web", GOOD), batches=("9",), observe_s=60)
        self.run_until(lambda: self.shown().phase == "observing")
        record = self.successResultOf(fired(self.node.rollouts.under_way()))["web"]
        new = next(id for id in (f"new-{number}" for number in range(100)) if record.turn(id))
        self.fleet.engines[new] = {}
        self.engines[new] = Engine(new, self.clock.seconds())
        self.node.desired.reconsider(new)
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual((self.shown().well, new in self.serving(GOOD)), (11, True))

    def test_who_was_away_is_not_blamed_for_what_was_so_before(self) -> None:
        self.hang_up("se-3")
        self.down = self.failing = {80, GOOD}
        self.run_for(90)
        self.roll(web("web", GOOD), batches=("100%",), observe_s=60)
        self.run_until(lambda: self.shown().phase == "observing")
        self.dial("se-3")
        self.run_until(lambda: self.shown().state != "running")
        self.assertEqual((self.shown().state, self.shown().well), ("finished", 10))

    def test_without_anybody_it_waits(self) -> None:
        for id in self.engines:
            self.hang_up(id)
        self.run_for(40)
        self.roll(web("web", GOOD), batches=("1", "5"), observe_s=20)
        self.run_for(1000)
        shown = self.shown()
        self.assertEqual((shown.state, shown.batch, shown.waiting), ("running", 1, 1))
        for id in self.engines:
            self.dial(id)
        self.run_until(lambda: self.shown().state == "finished")

    def test_a_short_loss_of_the_tunnel_is_no_failure(self) -> None:
        self.roll(web("web", GOOD), batches=("100%",), observe_s=60)
        self.run_until(lambda: self.shown().phase == "observing")
        self.hang_up("se-3")
        self.run_for(25)
        self.dial("se-3")
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual(self.shown().well, 10)

    def test_a_short_loss_of_the_tunnel_begins_the_observation_anew(self) -> None:
        self.roll(web("web", GOOD), batches=("1",), observe_s=30)
        self.run_until(lambda: self.shown().phase == "observing")
        (first,) = self.serving(GOOD)
        self.run_for(15)
        self.hang_up(first)
        self.run_for(10)
        self.dial(first)
        self.run_for(28)
        self.assertEqual((self.shown().batch, self.shown().phase), (1, "observing"))
        self.run_until(lambda: self.shown().state == "finished")

    def test_who_is_expected_only_is_not_waited_for(self) -> None:
        self.fleet.engines["new"] = {}
        self.roll(web("web", GOOD), batches=("100%",), observe_s=10)
        self.run_until(lambda: self.shown().state == "finished", 60)
        self.assertEqual(self.shown().targets, 10)

    def test_who_is_deleted_is_not_waited_for(self) -> None:
        self.engines["se-3"].stuck = True
        self.roll(web("web", GOOD), batches=("100%",), observe_s=10)
        self.run_for(20)
        self.assertEqual(self.shown().pending, 1)
        del self.engines["se-3"], self.fleet.engines["se-3"]
        self.node.observed.forget("se-3")
        self.node.desired.reconsider("se-3")
        self.run_until(lambda: self.shown().state == "finished", 60)
        self.assertEqual(self.shown().targets, 9)


class OperatorTests(FleetCase):
    def test_paused_nothing_more_is_opened_and_resumed_it_goes_on(self) -> None:
        self.roll(web("web", GOOD), batches=("1",), observe_s=10)
        self.run_until(lambda: self.serving(GOOD))
        self.assertEqual(self.do("pause").state, "paused")
        self.run_for(100)
        self.assertEqual((self.shown().phase, len(self.serving(GOOD))), ("passed", 1))
        self.do("resume")
        self.run_until(lambda: self.shown().state == "finished")

    def test_paused_it_is_stopped_all_the_same(self) -> None:
        self.roll(web("web", BAD), batches=("1",), observe_s=10)
        self.run_until(lambda: self.serving(BAD))
        self.do("pause")
        self.down = {BAD}
        self.run_until(lambda: self.shown().state == "rolled-back", 5)

    def test_a_plan_with_pauses_waits_after_each_batch(self) -> None:
        self.roll(web("web", GOOD), batches=("1", "5"), observe_s=5, pause=True)
        for size in (1, 5):
            self.run_until(lambda: self.shown().state == "paused")
            self.run_for(100)
            self.assertEqual(len(self.serving(GOOD)), size)
            self.do("resume")
        self.run_until(lambda: self.shown().state == "finished")

    def test_promoted_the_next_batch_or_all_come_at_once(self) -> None:
        self.roll(web("web", GOOD), batches=("1", "3", "5"), observe_s=1000)
        self.run_until(lambda: self.serving(GOOD))
        self.do("promote", all=False)
        self.run_for(3)
        self.assertEqual(len(self.serving(GOOD)), 3)
        self.do("promote", all=True)
        self.run_for(3)
        self.assertEqual((len(self.serving(GOOD)), self.shown().state), (10, "running"))
        self.do("promote", all=False)
        self.run_for(2)
        self.assertEqual(self.shown().state, "finished")

    def test_aborted_it_is_taken_back(self) -> None:
        self.roll(web("web", GOOD), batches=("5",), observe_s=1000)
        self.run_until(lambda: len(self.serving(GOOD)) == 5)
        shown = self.do("abort")
        self.assertEqual((shown.state, shown.by, shown.why), ("rolled-back", "bob", "by bob"))
        self.run_for(3)
        self.assertEqual(len(self.serving(80)), 10)
        for what, fields in (("abort", {}), ("pause", {}), ("resume", {}), ("promote", {"all": True})):
            self.failureResultOf(fired(getattr(self.node.driver, what)("web", "bob", **fields)), Conflict)
            self.failureResultOf(fired(getattr(self.node.driver, what)("no", "bob", **fields)), NotFound)

    def test_another_version_by_force_begins_anew(self) -> None:
        self.down = {BAD}
        self.roll(web("web", BAD), batches=("3",), observe_s=1000, auto_rollback=False)
        self.run_until(lambda: self.shown().state == "stopped")
        self.apply(web("web", GOOD), plan=RolloutPlan(batches=("2",), observe_s=10), force=True)
        self.run_for(1)
        self.assertEqual(self.serving(BAD), set())
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual(len(self.serving(GOOD)), 10)

    def test_those_under_way_come_first_in_the_list(self) -> None:
        self.roll(web("a", 91), batches=("100%",), observe_s=1)
        self.run_until(lambda: self.shown("a").state == "finished")
        self.roll(web("web", GOOD), observe_s=1000)
        found = self.successResultOf(fired(self.node.driver.latest())).items
        self.assertEqual([(each.name, each.state) for each in found], [("web", "running"), ("a", "finished")])
        self.run_for(1)
        self.assertEqual([each.name for each in self.node.driver.known()], ["web"])


class TogetherTests(FleetCase):
    def test_two_at_once_compose_and_a_bad_one_takes_nothing_from_the_good_one(self) -> None:
        self.apply(web("other", 90))
        self.run_for(3)
        self.down = {BAD}
        self.roll(web("web", GOOD), batches=("1", "5"), observe_s=20)
        self.roll(web("other", BAD), batches=("2",), observe_s=20)
        self.run_until(lambda: self.shown("other").state == "rolled-back")
        self.assertEqual(self.shown().state, "running")
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual(len(self.serving(GOOD) & self.serving(90)), 10)

    def test_one_that_cannot_go_on_holds_up_no_other(self) -> None:
        self.apply(web("other", 90))
        self.run_for(3)
        before = self.node.rollouts.before
        errors: list[Exception] = [Unavailable("the store is away"), RuntimeError("a fault")]

        async def fails(record: RolloutRecord) -> dict[str, Before]:
            if record.name == "other":
                raise errors[0]
            return await before(record)

        self.patch(self.node.rollouts, "before", fails)
        self.roll(web("other", BAD), batches=("100%",), observe_s=5)
        self.roll(web("web", GOOD), batches=("100%",), observe_s=5)
        self.run_for(3)
        errors.pop(0)
        self.run_until(lambda: self.shown().state == "finished")
        self.assertEqual(self.shown("other").opened, 0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1, "said once")
        self.patch(self.node.rollouts, "before", before)
        self.run_until(lambda: self.shown("other").state == "finished")

    def test_a_document_that_changes_beside_it_does_not_make_anybody_late(self) -> None:
        self.roll(web("web", GOOD), batches=("100%",), observe_s=150)
        self.run_until(lambda: self.shown().phase == "observing")
        self.run_for(140)
        for engine in self.engines.values():
            engine.stuck = True
        self.apply(web("other", 90))
        self.run_for(60)
        self.assertEqual((self.shown().state, self.shown().pending), ("running", 10))
        for engine in self.engines.values():
            engine.stuck = False
        self.run_until(lambda: self.shown().state == "finished")


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
