"""Roll-outs driven by a node over a fleet in memory: good versions come to all, bad ones stop and are taken back."""

from __future__ import annotations

from avinet.errors import NotFound
from avinet.wire.rollout import RolloutPlan
from tests.config.making import document, fired, pool, service, web
from tests.controller.rolling import REPORT_S, FleetCase

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
