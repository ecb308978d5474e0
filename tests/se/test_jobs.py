"""A job is started at most once, whatever becomes of the process, the disk or the caller."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import CANCELLED
from avinet.errors import Conflict, LocalError
from avinet.se.jobs import KEPT, Journal
from avinet.wire.command import CommandResult


class JournalTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.journal = self.another()
        self.runs: list[str] = []

    def another(self) -> Journal:
        """The journal of a process that has just started."""

        async def durable(call: Callable[[], None]) -> None:
            call()

        return Journal(self.path, durable)

    def once(self, job: str, until: Deferred[None] | None = None) -> Deferred[CommandResult]:
        async def run() -> CommandResult:
            self.runs.append(job)
            if until is not None:
                await until
            return CommandResult(job=job, exit_status=0, output=f"run {len(self.runs)}")

        return ensureDeferred(self.journal.once(job, run))

    def test_asked_again_it_gives_the_same_result(self) -> None:
        first = self.successResultOf(self.once("a"))
        self.assertEqual(self.successResultOf(self.once("a")), first)
        self.assertEqual(self.runs, ["a"])

    def test_while_it_runs_and_after_its_process_has_died_the_outcome_is_unknown(self) -> None:
        end: Deferred[None] = Deferred()
        running = self.once("a", end)
        self.failureResultOf(self.once("a"), Conflict)
        self.journal = self.another()
        self.failureResultOf(self.once("a"), Conflict)
        end.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.runs, ["a"])

    def test_a_caller_that_goes_away_does_not_have_it_run_again(self) -> None:
        running = self.once("a", Deferred())
        running.addErrback(lambda failure: failure.trap(*CANCELLED) and None)
        running.cancel()
        self.failureResultOf(self.once("a"), Conflict)

    def test_what_could_not_be_remembered_was_not_started(self) -> None:
        self.path.mkdir()
        self.failureResultOf(self.once("a"), LocalError)
        self.assertEqual(self.runs, [])
        self.path.rmdir()
        self.successResultOf(self.once("a"))
        self.assertEqual(self.runs, ["a"])

    def test_a_line_that_was_cut_off_takes_no_other_with_it(self) -> None:
        self.path.write_text("half-of-an-i")
        self.journal = self.another()
        self.successResultOf(self.once("a"))
        self.journal = self.another()
        self.failureResultOf(self.once("a"), Conflict)

    def test_the_journal_stays_short(self) -> None:
        for number in range(3 * KEPT):
            self.successResultOf(self.once(f"job-{number}"))
        self.assertLess(len(self.path.read_text().split()), 2 * KEPT + 1)
        self.journal = self.another()
        for number in (2 * KEPT + 1, 3 * KEPT - 1):
            self.failureResultOf(self.once(f"job-{number}"), Conflict)
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
