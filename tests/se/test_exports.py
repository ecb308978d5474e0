"""Exports stand beside the spool: each is given what it is for, and what is missing, and nothing is taken from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.dataplane.builtin import BuiltIn
from avinet.dataplane.records import line
from avinet.errors import LocalError
from avinet.logs.export.settings import Export
from avinet.se.exports import Exports
from avinet.se.settings import SignificantSettings
from avinet.se.significant import SignificantRecords
from avinet.wire.config import Significant
from tests.logs.test_significant import config, record

URL = "http://127.0.0.1:4318"


class ExportsTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)
        self.dataplane = BuiltIn(self.clock)
        self.spooled: list[bytes] = []
        self.missing: list[Any] = []
        self.dataplane.lines = self.spooled.extend
        self.dataplane.missed = lambda *missing: self.missing.append(missing)
        self.significant = SignificantRecords(self.clock, SignificantSettings(), "boot", self.tasks)
        self.significant.configure(config(Significant()))
        self.dataplane.records = self.significant.take

    def made(self, *settings: Export) -> Exports:
        exports = Exports(self.clock, settings, Path(), lambda: "se-1", self.clock.seconds, lambda: 0.5, self.tasks)
        exports.listen(self.dataplane, self.significant)
        return exports

    def waiting(self, exports: Exports) -> dict[str, int]:
        return {each.name: each.waiting_bytes for each in exports.states}

    def test_each_is_given_what_it_is_for(self) -> None:
        exports = self.made(
            Export(name="all", kind="otlp", url=URL, what="all"), Export(name="some", kind="otlp", url=URL)
        )
        well, wrong = record(), record(status=500)
        for each in (well, wrong):
            self.dataplane._take(each)
        self.assertEqual(self.spooled, [line(well), line(wrong)])
        self.assertEqual(self.waiting(exports), {"all": len(line(well)) + len(line(wrong)), "some": len(line(wrong))})

    def test_what_is_missing_is_told_to_those_who_want_all(self) -> None:
        exports = self.made(
            Export(name="all", kind="otlp", url=URL, what="all"), Export(name="some", kind="otlp", url=URL)
        )
        self.dataplane.missed("crash", None, 1, 2)
        self.assertEqual(self.missing, [("crash", None, 1, 2)])
        told = {each.settings.name: bool(each._waiting) for each in exports._all}
        self.assertEqual(told, {"all": True, "some": False})

    def test_without_any_nothing_changes(self) -> None:
        before = self.dataplane.lines
        exports = self.made()
        self.assertIs(self.dataplane.lines, before)
        self.assertEqual((exports.states, self.significant.others), ([], []))
        self.successResultOf(as_deferred(exports.stop()))

    def test_no_two_have_one_name(self) -> None:
        error = self.assertRaises(LocalError, self.made, *[Export(name="a", kind="otlp", url=URL)] * 2)
        self.assertIn("two exports named a", str(error))
