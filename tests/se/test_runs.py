"""A job runs once, whoever goes away; what it printed and how it ended is there for who asks again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.errors import Conflict, LocalError, NotFound, Unavailable
from avinet.feed import HIGH_BYTES
from avinet.se.commands import Console
from avinet.se.jobs import Journal
from avinet.se.runs import KEPT, Run, Runs
from avinet.wire.command import Ended
from tests.ssh.test_session import Producer

WELL = Ended(exit_status=0)


async def at_once(call: Callable[[], Any]) -> Any:
    return call()


class RunsCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.addCleanup(self.tasks.stop)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.consoles: list[Console] = []
        self.end: Deferred[Ended] = Deferred()
        self.runs = self.another()

    def another(self) -> Runs:
        """The runs of a process that has just started."""
        journal = Journal(self.folder / "jobs", at_once)
        return Runs(self.clock, journal, self.folder / "output", at_once, self.tasks)

    async def execute(self, console: Console) -> Ended:
        self.consoles.append(console)
        return await self.end

    def start(self, job: str = "job-0001", execute: Callable[[Console], Awaitable[Ended]] | None = None) -> Run:
        run: Run = self.successResultOf(as_deferred(self.runs.start(job, execute or self.execute)))
        return run


class RunsTests(RunsCase):
    def test_asked_again_it_is_the_same_run(self) -> None:
        run = self.start()
        self.assertIs(self.start(), run)
        self.assertEqual(len(self.consoles), 1)

    def test_what_it_printed_is_there_after_its_end_and_in_another_process(self) -> None:
        run = self.start()
        run.write(b"out\n")
        run.write_error(b"err\n")
        self.end.callback(Ended(exit_status=3))
        for runs in (self.runs, self.another()):
            self.runs = runs
            again = self.start()
            self.assertEqual((again.ended, again.feed.transcript.texts()), (Ended(exit_status=3), ("out\n", "err\n")))
        self.assertEqual(len(self.consoles), 1)

    def test_of_a_long_output_the_places_stay_the_same_on_the_disk(self) -> None:
        run = self.start()
        for number in range(100_000):
            run.write(b"%06d\n" % number)
        self.end.callback(WELL)
        again = self.start()
        self.assertGreater(again.feed.transcript.left_out, 0)
        self.assertEqual(list(again.feed.transcript.after(0)), list(run.feed.transcript.after(0)))

    def test_when_its_process_has_died_the_outcome_is_unknown(self) -> None:
        self.start()
        self.runs = self.another()
        self.failureResultOf(as_deferred(self.runs.start("job-0001", self.execute)), Conflict)
        self.failureResultOf(as_deferred(self.runs.find("job-0001")), Conflict)
        self.assertEqual(len(self.consoles), 1)

    def test_what_was_asked_for_before_it_came_never_begins(self) -> None:
        self.failureResultOf(as_deferred(self.runs.find("job-0001")), NotFound)
        self.failureResultOf(as_deferred(self.runs.start("job-0001", self.execute)), Conflict)
        self.assertEqual(self.consoles, [])

    def test_it_is_cancelled(self) -> None:
        run = self.start()
        self.runs.cancel("job-0001")
        self.assertEqual(run.ended, Ended(exit_status=143, signal="TERM"))
        self.assertRaises(NotFound, self.runs.cancel, "job-0001")

    def test_asked_for_while_it_is_made_durable_it_is_the_same_run(self) -> None:
        disk: Deferred[None] = Deferred()

        async def slow(call: Callable[[], None]) -> None:
            await disk
            call()

        self.runs = Runs(self.clock, Journal(self.folder / "jobs", slow), self.folder / "output", at_once, self.tasks)
        starting = as_deferred(self.runs.start("job-0001", self.execute))
        again = as_deferred(self.runs.start("job-0001", self.execute))
        finding = as_deferred(self.runs.find("job-0001"))
        self.assertNoResult(finding)
        disk.callback(None)
        run: Run = self.successResultOf(starting)
        self.assertIs(self.successResultOf(again), run)
        self.assertIs(self.successResultOf(finding), run)
        self.assertEqual(len(self.consoles), 1)

    def test_what_could_not_be_made_durable_may_be_asked_for_again(self) -> None:
        disk: Deferred[None] = Deferred()

        async def failing(call: Callable[[], None]) -> None:
            if not disk.called:
                await disk
            raise LocalError("the disk is full")

        journal = Journal(self.folder / "jobs", failing)
        self.runs = Runs(self.clock, journal, self.folder / "output", at_once, self.tasks)
        starting = as_deferred(self.runs.start("job-0001", self.execute))
        again = as_deferred(self.runs.start("job-0001", self.execute))
        self.runs.cancel("job-0001")
        disk.callback(None)
        self.failureResultOf(starting, LocalError)
        self.failureResultOf(again, Unavailable)
        self.assertEqual(self.consoles, [])

    def test_cancelled_while_it_is_made_durable_it_never_begins(self) -> None:
        disk: Deferred[None] = Deferred()

        async def slow(call: Callable[[], None]) -> None:
            await disk
            call()

        journal = Journal(self.folder / "jobs", slow)
        self.runs = Runs(self.clock, journal, self.folder / "output", at_once, self.tasks)
        starting = as_deferred(self.runs.start("job-0001", self.execute))
        self.runs.cancel("job-0001")
        self.assertNoResult(starting)
        disk.callback(None)
        run: Run = self.successResultOf(starting)
        self.assertEqual((run.ended, self.consoles), (Ended(exit_status=143, signal="TERM"), []))
        self.assertEqual(run.feed.transcript.texts(), ("", "cancelled before it began\n"))
        self.assertEqual(self.start().ended, run.ended)
        self.assertRaises(NotFound, self.runs.cancel, "job-0001")

    def test_a_fault_of_ours_is_an_end_too(self) -> None:
        async def fails(console: Console) -> Ended:
            raise RuntimeError("a fault")

        self.assertEqual(self.start(execute=fails).ended, Ended(exit_status=125))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_folder_that_cannot_be_written_costs_only_what_is_kept(self) -> None:
        run = self.start()
        (self.folder / "output").rmdir()
        self.end.callback(WELL)
        self.assertEqual(run.ended, WELL)
        self.failureResultOf(as_deferred(self.runs.find("job-0001")), Conflict)

    def test_the_oldest_are_forgotten(self) -> None:
        self.end.callback(WELL)
        for number in range(KEPT + 5):
            self.start(f"job-{number:04d}")
        names = sorted(each.name for each in (self.folder / "output").iterdir())
        self.assertEqual((len(names), names[0]), (KEPT, "job-0005"))

    def test_what_prints_waits_for_who_follows(self) -> None:
        run = self.start()
        follower, producer = run.feed.follow(), Producer()
        run.registerProducer(producer, True)
        while not producer.paused:
            run.write(bytes(4096))
        self.assertLess(run.feed.transcript.size, HIGH_BYTES * 4)
        while producer.paused:
            self.assertTrue(follower.take())

    def test_bytes_that_are_no_text_are_shown_as_such(self) -> None:
        run = self.start()
        run.write(b"a\xff\0b\xe2\x82")
        run.write(b"\xac\xe2")
        self.end.callback(WELL)
        self.assertEqual(run.feed.transcript.texts()[0], "a\ufffd\ufffdb€\ufffd")
