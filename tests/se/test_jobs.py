"""A job is begun at most once, whatever becomes of the process, the disk or the caller."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import Conflict, LocalError
from avinet.se.jobs import KEPT, Journal


async def durable(call: Callable[[], None]) -> None:
    call()


class JournalTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.journal = self.another()

    def another(self) -> Journal:
        """The journal of a process that has just started."""
        return Journal(self.path, durable)

    def begin(self, job: str) -> Deferred[None]:
        return ensureDeferred(self.journal.begin(job))

    def test_once(self) -> None:
        self.successResultOf(self.begin("a"))
        self.failureResultOf(self.begin("a"), Conflict)

    def test_whatever_becomes_of_the_process(self) -> None:
        self.successResultOf(self.begin("a"))
        self.journal = self.another()
        self.failureResultOf(self.begin("a"), Conflict)
        self.assertIn("a", self.journal)

    def test_what_could_not_be_remembered_was_not_begun(self) -> None:
        self.path.mkdir()
        self.failureResultOf(self.begin("a"), LocalError)
        self.assertNotIn("a", self.journal)
        self.path.rmdir()
        self.successResultOf(self.begin("a"))

    def test_a_line_that_was_cut_off_takes_no_other_with_it(self) -> None:
        self.path.write_text("half-of-an-i")
        self.journal = self.another()
        self.successResultOf(self.begin("a"))
        self.journal = self.another()
        self.failureResultOf(self.begin("a"), Conflict)

    def test_the_journal_stays_short(self) -> None:
        for number in range(3 * KEPT):
            self.successResultOf(self.begin(f"job-{number}"))
        self.assertLess(len(self.path.read_text().split()), 2 * KEPT + 1)
        self.journal = self.another()
        for number in (2 * KEPT + 1, 3 * KEPT - 1):
            self.failureResultOf(self.begin(f"job-{number}"), Conflict)
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_jobs_may_begin_while_it_is_rewritten(self) -> None:
        """It is rewritten in a thread, and in the middle of that another job begins in the reactor's."""
        calls: list[Callable[[], None]] = []

        async def held(call: Callable[[], None]) -> None:
            if "marked" in self.journal:
                calls.append(call)
                await Deferred()
            call()

        class Marked(str):
            def __format__(self, spec: str) -> str:
                another()
                return str(self)

        def another() -> None:
            self.begin("another")

        self.journal = Journal(self.path, held)
        for number in range(2 * KEPT):
            self.successResultOf(self.begin(f"job-{number}"))
        self.begin(Marked("marked"))
        calls[0]()
        self.assertEqual(len(calls), 2, "the other came in the middle of it")
        written = self.path.read_text().split()
        self.assertEqual((len(written), written[-1]), (KEPT + 1, "marked"))
