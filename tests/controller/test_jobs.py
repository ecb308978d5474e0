"""Jobs: some at a time, in batches, stopped by failures; what is not known is said not to be."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from avinet.aio import as_deferred
from avinet.controller import job_records
from avinet.controller import jobs as jobs_module
from avinet.controller.errands import AWAY_S, LOOK_S
from avinet.controller.job_records import KEPT
from avinet.controller.jobs import RETRY_S
from avinet.controller.reverse import SignatureRefused
from avinet.errors import Conflict, Invalid, NotFound, PeerError, TimedOut, Unavailable
from avinet.wire.jobs import KEPT_OUTPUT_BYTES, JobOrder
from tests.controller.fleets import JobCase


class JobTests(JobCase):
    def test_each_result_is_there_as_it_comes_and_the_job_ends_with_the_last(self) -> None:
        job = self.begin("a", "b")
        self.assertEqual((job.state, job.targets, job.operator), ("running", 2, "ann"))
        self.assertEqual({each.job for each in self.fleet.requests}, {job.id})
        self.fleet.answer("b", output="pong\n")
        [first] = self.results(job)
        self.assertEqual((first.number, first.id, first.outcome, first.output), (1, "b", "done", "pong\n"))
        self.assertEqual(self.state(job).state, "running")
        self.fleet.answer("a", status=3)
        self.assertEqual([(each.id, each.exit_status) for each in self.results(job)], [("b", 0), ("a", 3)])
        ended = self.state(job)
        self.assertEqual((ended.state, ended.ended, ended.failed), ("done", 2, 1))
        self.assertIsNotNone(ended.finished)

    def test_only_so_many_run_at_a_time(self) -> None:
        self.begin("a", "b", "c", at_once=2)
        self.assertEqual(set(self.fleet.asked), {"a", "b"})
        self.fleet.answer("b")
        self.assertEqual(set(self.fleet.asked), {"a", "c"})

    def test_a_batch_waits_for_the_one_before(self) -> None:
        self.begin("a", "b", "c", "d", batch=2)
        self.fleet.answer("a")
        self.assertEqual(set(self.fleet.asked), {"b"})
        self.fleet.answer("b")
        self.assertEqual(set(self.fleet.asked), {"c", "d"})

    def test_thousands_that_have_gone_in_the_middle_are_counted_one_after_the_other(self) -> None:
        targets = [f"se-{number}" for number in range(5000)]
        job = self.begin(*targets, at_once=2)
        self.fleet.gone = set(targets)
        for id in list(self.fleet.asked):
            self.fleet.fail(id, Conflict("its outcome is unknown"))
        self.assertEqual((self.state(job).state, self.state(job).ended, len(self.fleet.requests)), ("done", 5000, 2))

    def test_too_many_failures_stop_it(self) -> None:
        job = self.begin("a", "b", "c", "d", at_once=1, failures=1)
        self.fleet.answer("a", status=1)
        self.fleet.answer("b", status=1)
        self.assertEqual(self.fleet.asked, {})
        self.assertEqual([each.outcome for each in self.results(job)], ["done", "done", "skipped", "skipped"])
        ended = self.state(job)
        self.assertEqual((ended.state, ended.failed, ended.ended), ("stopped", 2, 4))

    def test_it_is_cancelled(self) -> None:
        job = self.begin("a", "b", at_once=1)
        self.jobs.cancel(job.id)
        self.assertEqual(self.fleet.ended, ["a"], "what runs is ended")
        self.fleet.answer("a", 143, signal="TERM")
        found = self.results(job)
        self.assertEqual([(each.outcome, each.signal) for each in found], [("done", "TERM"), ("skipped", "")])
        self.assertEqual(self.state(job).state, "cancelled")
        self.assertRaises(Conflict, self.jobs.cancel, job.id)

    def test_what_is_not_known_is_said_not_to_be(self) -> None:
        self.fleet.gone = {"far"}
        job = self.begin("far", "late", "lost", "twice", "odd", "unsigned", "wrong")
        for id, error in {
            "late": TimedOut("no answer"),
            "lost": Unavailable("the tunnel was lost"),
            "twice": Conflict("it was started before, and its outcome is unknown"),
            "odd": PeerError("its answer is no JSON"),
            "unsigned": SignatureRefused("it does not take this node's signature"),
            "wrong": Invalid("no such argument"),
        }.items():
            self.fleet.fail(id, error)
        self.assertEqual(self.state(job).ended, 5, "the others may be asked again")
        for _ in range(int(AWAY_S / LOOK_S) + 1):
            self.clock.advance(LOOK_S)
            for id in ("late", "lost"):
                if id in self.fleet.asked:
                    self.fleet.fail(id, Unavailable("it says nothing"))
        outcomes = {each.id: each.outcome for each in self.results(job)}
        self.assertEqual(
            outcomes,
            {
                "far": "unreachable",
                "late": "unknown",
                "lost": "unknown",
                "twice": "unknown",
                "odd": "unknown",
                "unsigned": "refused",
                "wrong": "refused",
            },
        )
        self.assertEqual(self.state(job).failed, 7)

    def test_who_waits_is_told_of_the_next_result_and_of_the_end(self) -> None:
        job = self.begin("a", "b")
        waiting = as_deferred(self.jobs.results(job.id, 0, 30))
        self.assertNoResult(waiting)
        self.fleet.answer("a")
        self.assertEqual([each.id for each in self.successResultOf(waiting).items], ["a"])
        waiting = as_deferred(self.jobs.results(job.id, 1, 30))
        self.clock.advance(30)
        self.assertEqual(self.successResultOf(waiting).items, [])
        waiting = as_deferred(self.jobs.results(job.id, 1, 30))
        self.fleet.answer("b")
        found = self.successResultOf(waiting)
        self.assertEqual([each.id for each in found.items], ["b"])
        self.assertEqual(self.result(self.jobs.results(job.id, 2, 30)).job.state, "done")

    def test_long_output_is_cut_where_it_is_kept_and_whole_where_it_is_waited_for(self) -> None:
        order = JobOrder(command="config", ids=["a"])
        running = as_deferred(self.jobs.one(order, "a", "ann"))
        self.fleet.answer("a", output="x" * (KEPT_OUTPUT_BYTES + 1))
        self.assertEqual(len(self.successResultOf(running).output), KEPT_OUTPUT_BYTES + 1)
        [job] = self.result(self.jobs.latest(limit=10, before="")).items
        [kept] = self.results(job)
        self.assertLessEqual(len(kept.output), KEPT_OUTPUT_BYTES)
        self.assertIn(f"... ({kept.left_out} bytes left out)", kept.output)
        self.assertGreater(kept.left_out, 0)

    def test_one_that_fails_is_kept_and_raised(self) -> None:
        running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
        self.fleet.fail("a", Conflict("it was started before, and its outcome is unknown"))
        self.failureResultOf(running, Conflict)
        [job] = self.result(self.jobs.latest(limit=10, before="")).items
        self.assertEqual((job.failed, self.results(job)[0].outcome), (1, "unknown"))

    def test_one_is_known_before_it_runs_and_can_be_cancelled(self) -> None:
        running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
        [job] = self.result(self.jobs.latest(limit=10, before="")).items
        self.assertEqual((job.state, job.command, job.operator), ("running", "ping", "ann"))
        self.jobs.cancel(job.id)
        self.assertEqual(self.fleet.ended, ["a"])
        self.fleet.answer("a")
        self.successResultOf(running)
        self.assertEqual(self.state(job).state, "cancelled")
        again = self.made()
        self.result(again.start())
        self.assertEqual(self.result(again.results(job.id, 0, 0)).job.state, "cancelled")

    def test_one_that_a_node_ends_with_is_interrupted(self) -> None:
        running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
        [job] = self.result(self.jobs.latest(limit=10, before="")).items
        self.tasks.stop()
        self.failureResultOf(running, Unavailable)
        again = self.made()
        self.result(again.start())
        self.assertEqual(self.result(again.results(job.id, 0, 0)).job.state, "interrupted")

    def test_while_the_store_is_silent_it_is_asked_and_answered_all_the_same(self) -> None:
        silent: Deferred[Any] = Deferred()
        self.patch(self.store, "transact", lambda transaction: silent)
        self.patch(self.jobs, "_silent_s", lambda: 1.0)
        running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
        self.fleet.answer("a", output="pong")
        self.assertEqual(self.successResultOf(running).output, "pong")

    def test_what_is_kept_already_waits_for_nothing_more(self) -> None:
        async def fails() -> None:
            raise Unavailable("no quorum")

        self.patch(self.jobs._records, "sweep_now_and_then", fails)
        running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
        self.fleet.answer("a")
        self.successResultOf(running)
        [job] = self.result(self.jobs.latest(limit=10, before="")).items
        self.assertEqual((job.state, self.clock.getDelayedCalls()), ("done", []))

    def test_only_so_many_ends_wait_for_the_store(self) -> None:
        self.patch(jobs_module, "UNKEPT", 2)
        self.store.unavailable = "no quorum"
        for _ in range(3):
            running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
            self.fleet.answer("a")
            self.successResultOf(running)
        self.store.unavailable = ""
        self.clock.advance(RETRY_S)
        self.assertEqual(len(self.result(self.jobs.latest(limit=10, before="")).items), 2)

    def test_without_a_store_an_answer_is_an_answer(self) -> None:
        running = as_deferred(self.jobs.one(JobOrder(command="ping", ids=["a"]), "a", "ann"))
        self.store.unavailable = "no quorum"
        self.fleet.answer("a", output="pong")
        self.assertEqual(self.successResultOf(running).output, "pong")
        failing = as_deferred(self.jobs.begin(JobOrder(command="ping", ids=["a"]), ["a"], "ann"))
        self.failureResultOf(failing, Unavailable)
        self.assertEqual(self.fleet.asked, {})

    def test_the_end_is_kept_as_soon_as_the_store_is_back_and_known_until_then(self) -> None:
        job = self.begin("a")
        self.store.unavailable = "the disk is full"
        self.fleet.answer("a")
        self.store.unavailable = ""
        self.assertEqual(self.state(job).state, "done")
        [entry] = self.result(self.store.range(b"job/")).entries
        self.assertNotIn(b'"done"', entry.value)
        self.assertRaises(Conflict, self.jobs.cancel, job.id)
        self.clock.advance(RETRY_S)
        [entry] = self.result(self.store.range(b"job/")).entries
        self.assertIn(b'"done"', entry.value)

    def test_output_of_control_characters_is_kept_too(self) -> None:
        job = self.begin("a")
        self.fleet.answer("a", output="\1" * KEPT_OUTPUT_BYTES)
        [kept] = self.results(job)
        self.assertIn("bytes left out", kept.output)
        self.assertLess(len(msgspec.json.encode(kept)), 2 * KEPT_OUTPUT_BYTES)

    def test_a_node_that_ended_meanwhile_says_so_when_it_is_back(self) -> None:
        job = self.begin("a", "b")
        self.fleet.answer("a")
        again = self.made()
        self.result(again.start())
        found = self.result(again.results(job.id, 0, 30))
        self.assertEqual((found.job.state, found.job.ended, len(found.items)), ("interrupted", 1, 1))

    def test_the_latest_come_first_and_only_so_many_are_kept(self) -> None:
        for number in range(KEPT + 100):
            running = as_deferred(self.jobs.one(JobOrder(command=f"c{number}", ids=["a"]), "a", "ann"))
            self.fleet.answer("a")
            self.successResultOf(running)
        first = self.result(self.jobs.latest(limit=3, before=""))
        self.assertEqual([each.command for each in first.items], [f"c{KEPT + 99 - number}" for number in range(3)])
        second = self.result(self.jobs.latest(limit=3, before=first.next))
        self.assertEqual(second.items[0].command, f"c{KEPT + 96}")
        kept = self.result(self.store.range(b"job/", limit=2000)).entries
        results = self.result(self.store.range(b"job-result/", limit=2000)).entries
        self.assertEqual((len(kept), len(results)), (KEPT, KEPT))

    def test_results_are_kept_up_to_so_many_bytes(self) -> None:
        self.patch(job_records, "KEPT_BYTES", 3 * KEPT_OUTPUT_BYTES)
        self.patch(job_records, "_SWEEP_BYTES", KEPT_OUTPUT_BYTES)
        ids = []
        for _ in range(10):
            job = self.begin("a", "b")
            ids.append(job.id)
            for id in ("a", "b"):
                self.fleet.answer(id, output="x" * KEPT_OUTPUT_BYTES)
        entries = self.result(self.store.range(b"job", limit=2000)).entries
        size = sum(len(each.value) for each in entries if each.key.startswith(b"job-result/"))
        self.assertLessEqual(size, 3 * KEPT_OUTPUT_BYTES)
        self.assertGreater(size, KEPT_OUTPUT_BYTES)
        kept = [each.id for each in self.result(self.jobs.latest(limit=100, before="")).items]
        self.assertEqual(kept, ids[::-1][: len(kept)])
        self.assertEqual(len([each for each in entries if each.key.startswith(b"job-size/")]), len(kept))

    def test_the_last_job_is_kept_however_long_its_results_are(self) -> None:
        self.patch(job_records, "KEPT_BYTES", 10)
        self.patch(job_records, "_SWEEP_BYTES", 1)
        jobs = [self.begin("a") for _ in range(1)]
        self.fleet.answer("a", output="x" * 100)
        jobs.append(self.begin("a"))
        self.fleet.answer("a", output="x" * 100)
        self.assertEqual([each.id for each in self.result(self.jobs.latest(limit=9, before="")).items], [jobs[1].id])
        self.assertEqual(len(self.results(jobs[1])), 1)

    def test_long_results_are_handed_out_some_at_a_time(self) -> None:
        targets = [f"se-{number}" for number in range(150)]
        job = self.begin(*targets, at_once=len(targets))
        for id in targets:
            self.fleet.answer(id, output="x" * 100_000)
        numbers: list[int] = []
        while page := self.results(job, numbers[-1] if numbers else 0):
            self.assertLess(sum(len(each.output) for each in page), 4 * 1024 * 1024)
            numbers += [each.number for each in page]
        self.assertEqual(numbers, list(range(1, 151)))

    def test_there_is_no_such_job(self) -> None:
        self.failureResultOf(as_deferred(self.jobs.results("nothing-here", 0, 0)), NotFound)
        self.failureResultOf(as_deferred(self.jobs.follow("nothing-here")), NotFound)
