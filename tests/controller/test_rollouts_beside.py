"""Roll-outs beside what else happens: service engines that are away, operators, and each other."""

from __future__ import annotations

from avinet.config.health import Before
from avinet.config.rollout import RolloutRecord
from avinet.errors import Conflict, NotFound, Unavailable
from avinet.wire.rollout import RolloutPlan
from tests.config.making import fired, web
from tests.controller.rolling import Engine, FleetCase

GOOD, BAD = 81, 66


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
