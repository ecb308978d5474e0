"""A job while it runs: followed from its start or from now, and across a tunnel that is lost in the middle."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from avinet.aio import as_deferred
from avinet.controller.errands import AFTER_S, AWAY_S, LOOK_S
from avinet.errors import Conflict, NotFound, TimedOut, Unavailable
from avinet.feed import HOLD_S
from avinet.wire.command import CommandLeftOut, CommandOutput, CommandStarted
from avinet.wire.jobs import Job, JobOrder
from tests.controller.fleets import JobCase, Reading


class LostTests(JobCase):
    """The tunnel is lost in the middle: the job runs on, and what came since is asked for by its id."""

    def lose(self) -> Job:
        """A job whose tunnel is lost after it has printed five bytes."""
        job = self.begin("a")
        self.fleet.asked["a"].say(CommandStarted(), CommandOutput(text="four"), CommandOutput(text="!", stream="err"))
        self.fleet.gone = {"a"}
        self.fleet.fail("a", Unavailable("the tunnel was lost"))
        return job

    def back(self) -> None:
        self.fleet.gone = set()
        self.clock.advance(LOOK_S)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            self.clock.advance(LOOK_S)

    def test_it_is_asked_for_the_rest_and_not_run_again(self) -> None:
        job = self.lose()
        self.assertEqual(self.results(job), [])
        self.wait(10)
        self.assertEqual(self.fleet.places, [])
        self.back()
        self.assertEqual(self.fleet.places, [5])
        self.fleet.answer("a", 3, "five")
        [found] = self.results(job)
        self.assertEqual((found.outcome, found.exit_status, found.output, found.error), ("done", 3, "fourfive", "!"))
        self.assertEqual(len(self.fleet.requests), 1)

    def test_it_may_be_lost_again_and_again(self) -> None:
        job = self.lose()
        for number in range(5):
            self.back()
            self.fleet.asked["a"].say(CommandStarted(), CommandOutput(text=str(number)))
            self.fleet.gone = {"a"}
            self.fleet.fail("a", Unavailable("the tunnel was lost"))
            self.wait(AWAY_S - 2)
        self.back()
        self.fleet.answer("a")
        self.assertEqual(self.results(job)[0].output, "four01234")
        self.assertEqual(self.fleet.places, [5, 6, 7, 8, 9, 10])

    def test_what_is_left_out_there_counts_too(self) -> None:
        job = self.lose()
        self.back()
        self.fleet.asked["a"].say(CommandStarted(), CommandLeftOut(bytes=1000), CommandOutput(text="end"))
        self.fleet.answer("a")
        [found] = self.results(job)
        self.assertEqual(found.left_out, 1000)
        self.assertIn("four\n... (1000 bytes left out)\nend", found.output)

    def test_one_that_counts_without_end_is_not_believed(self) -> None:
        job = self.begin("a")
        self.fleet.asked["a"].say(CommandStarted(), *[CommandLeftOut(bytes=2**62)] * 4)
        [found] = self.results(job)
        self.assertEqual((found.outcome, found.left_out), ("unknown", 0))

    def test_one_that_does_not_come_back_is_unknown_with_what_came(self) -> None:
        job = self.lose()
        self.wait(AWAY_S + 1)
        [found] = self.results(job)
        self.assertEqual((found.outcome, found.output), ("unknown", "four"))
        self.assertIn("the tunnel was lost", found.error)
        self.assertEqual(self.state(job).state, "done")

    def test_one_whose_process_has_died_is_unknown_with_what_came(self) -> None:
        job = self.lose()
        self.back()
        self.fleet.fail("a", Conflict("its outcome is unknown"))
        [found] = self.results(job)
        self.assertEqual((found.outcome, found.output), ("unknown", "four"))

    def test_one_that_was_seen_to_run_is_never_said_not_to_have_run(self) -> None:
        job = self.lose()
        self.back()
        self.fleet.fail("a", NotFound("it was not started here"))
        self.assertEqual(self.results(job)[0].outcome, "unknown")

    def test_one_that_it_never_came_to_did_not_run(self) -> None:
        job = self.begin("a")
        self.fleet.fail("a", Unavailable("the tunnel was lost"))
        self.back()
        self.fleet.fail("a", NotFound("it was not started here"))
        self.assertEqual(self.results(job)[0].outcome, "unreachable")

    def test_one_that_is_cancelled_meanwhile_is_ended_when_it_is_back(self) -> None:
        job = self.lose()
        self.jobs.cancel(job.id)
        self.assertEqual(self.fleet.ended, [])
        self.back()
        self.assertEqual(self.fleet.ended, ["a"])

    def test_one_that_does_not_end_in_time_is_given_up(self) -> None:
        job = self.begin("a", timeout_s=5)
        self.assertEqual(self.fleet.requests[0].timeout_s, 5)
        self.fleet.asked["a"].say(CommandStarted())
        self.clock.advance(5 + AFTER_S)
        self.assertEqual((self.results(job)[0].outcome, self.fleet.ended), ("unknown", ["a"]))


class CancelTests(JobCase):
    def test_one_that_had_not_started_is_ended_when_it_has(self) -> None:
        job = self.begin("a")
        self.fleet.deaf = [NotFound("there is no such job")]
        self.jobs.cancel(job.id)
        self.assertEqual(self.fleet.ended, [])
        self.fleet.asked["a"].say(CommandStarted())
        self.assertEqual(self.fleet.ended, ["a"])

    def test_one_that_starts_while_it_is_being_ended_is_ended_again(self) -> None:
        job = self.begin("a")
        answer: Deferred[None] = Deferred()
        self.fleet.deaf = [answer]
        self.jobs.cancel(job.id)
        self.fleet.asked["a"].say(CommandStarted())
        answer.errback(NotFound("there is no such job"))
        self.assertEqual(self.fleet.ended, ["a"])

    def test_each_cancel_is_said(self) -> None:
        job = self.begin("a")
        self.fleet.asked["a"].say(CommandStarted())
        for count in (1, 2, 3):
            self.jobs.cancel(job.id)
            self.assertEqual(self.fleet.ended, ["a"] * count)

    def test_it_is_said_until_it_was_heard_while_the_tunnel_is_up(self) -> None:
        job = self.begin("a")
        self.fleet.asked["a"].say(CommandStarted())
        self.fleet.deaf = [TimedOut("no answer"), Unavailable("no more channels"), TimedOut("no answer")]
        self.jobs.cancel(job.id)
        for _ in range(3):
            self.assertEqual(self.fleet.ended, [])
            self.clock.advance(LOOK_S)
        self.assertEqual(self.fleet.ended, ["a"])

    def test_it_is_said_no_more_when_it_has_ended(self) -> None:
        job = self.begin("a")
        self.fleet.deaf = [TimedOut("no answer")]
        self.jobs.cancel(job.id)
        self.fleet.answer("a")
        for _ in range(3):
            self.clock.advance(LOOK_S)
        self.assertLessEqual(len(self.fleet.ended), 1)
        self.assertEqual(len(self.tasks), 0)

    def test_one_that_starts_twice_is_not_believed(self) -> None:
        job = self.begin("a")
        self.fleet.asked["a"].say(CommandStarted(), CommandStarted())
        self.assertEqual(self.results(job)[0].outcome, "unknown")


class FollowTests(JobCase):
    def reading(self, following: Any) -> Reading:
        return Reading(self.successResultOf(as_deferred(following)))

    def test_it_is_told_while_it_runs(self) -> None:
        order = JobOrder(command="ping", ids=["a", "b"])
        reading = self.reading(self.jobs.begin_followed(order, ["a", "b"], "ann"))
        reading.go()
        self.fleet.print("b", "one")
        self.fleet.print("a", "two", "err")
        self.assertEqual(reading.told, ["job running", "started a", "started b", "b out one", "a err two"])
        self.fleet.answer("b", 3, "three")
        self.fleet.answer("a", 143, signal="TERM")
        self.assertEqual(reading.told[5:], ["b out three", "ended b done 3", "ended a done 143", "job done"])
        self.assertTrue(reading.over)

    def test_one_that_comes_later_hears_it_from_the_start_or_from_now_on(self) -> None:
        job = self.begin("a", "b", at_once=1)
        self.fleet.answer("a", 0, "first")
        self.fleet.print("b", "second")
        start = self.reading(self.jobs.follow(job.id))
        now = self.reading(self.jobs.follow(job.id, from_now=True))
        for each in (start, now):
            each.go()
        self.fleet.print("b", "third")
        self.fleet.answer("b")
        told = ["job running", "a out first", "ended a done 0", "started b", "b out second", "b out third"]
        self.assertEqual(start.told, [*told, "ended b done 0", "job done"])
        self.assertEqual(now.told, ["job running", "started b", "b out third", "ended b done 0", "job done"])

    def test_one_that_has_ended_is_told_as_it_was_kept(self) -> None:
        job = self.begin("a", "far")
        self.fleet.answer("a", 0, "first")
        self.fleet.fail("far", Conflict("its outcome is unknown"))
        reading = self.reading(self.jobs.follow(job.id))
        reading.go()
        told = ["job done", "a out first", "ended a done 0", "ended far unknown its outcome is unknown", "job done"]
        self.assertEqual(reading.told, told)

    def test_what_prints_waits_for_who_follows_and_a_dead_one_holds_nobody(self) -> None:
        order = JobOrder(command="ping", ids=["a", "b"], at_once=1)
        reading = self.reading(self.jobs.begin_followed(order, ["a", "b"], "ann"))
        reading.go(1)
        told = self.fleet.asked["a"]
        told.say(*[CommandOutput(text="x" * 8192) for _ in range(1000)])
        self.assertLess(told.taken, 10)
        self.clock.advance(HOLD_S)
        self.assertEqual(told.taken, 1000)
        self.fleet.answer("a")
        self.assertIn("b", self.fleet.asked)
        self.fleet.answer("b")
        reading.go()
        self.assertLess(sum(each.startswith("a out") for each in reading.told), 30)
        self.assertGreater(sum(each.startswith("a left") for each in reading.told), 0)
        self.assertEqual(reading.told[-2:], ["ended b done 0", "job done"])

    def test_who_follows_and_reads_gets_every_byte(self) -> None:
        reading = self.reading(self.jobs.begin_followed(JobOrder(command="ping", ids=["a"]), ["a"], "ann"))
        reading.go()
        self.fleet.asked["a"].say(*[CommandOutput(text=f"{number:08d}" * 500) for number in range(1000)])
        self.fleet.answer("a")
        self.assertEqual(reading.bytes, 4_000_000)
        self.assertEqual([each for each in reading.told if "left" in each], [])

    def test_without_a_store_it_is_told_all_the_same(self) -> None:
        self.store.unavailable = "no quorum"
        reading = self.reading(self.jobs.begin_followed(JobOrder(command="ping", ids=["a"]), ["a"], "ann"))
        reading.go()
        self.fleet.answer("a", 0, "pong")
        self.assertEqual(reading.told, ["job running", "started a", "a out pong", "ended a done 0", "job done"])

    def test_who_goes_away_is_forgotten(self) -> None:
        job = self.begin("a")
        reading = self.reading(self.jobs.follow(job.id))
        reading.go()
        reading.leave()
        self.fleet.asked["a"].say(*[CommandOutput(text="x" * 8192) for _ in range(100)])
        self.fleet.answer("a")
        self.assertEqual(self.state(job).state, "done")
