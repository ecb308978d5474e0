"""The reports that a node looks at: so many of one service engine, and of every other as if it were alone (H7)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.controller.engine_door import BURST, PER_S, report_routes
from avinet.errors import TooMany
from avinet.rest.route import Request
from avinet.telemetry.fleet import Fleet
from avinet.wire.message import encode
from avinet.wire.report import REPORT_LIMIT_BYTES, Report


class ReportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.fleet = Clock(), Fleet()

        def reported(id: str, report: Report) -> None:
            """Nothing rolls out."""

        (self.route,) = report_routes(self.fleet, self, self, reported, self.clock.seconds)  # type: ignore[arg-type]

    def said(self, id: str, config: Any, boot: str) -> None:
        """No configuration is in these reports."""

    def report(self, id: str) -> Any:
        body = encode(Report(seq=0, boot="b", time=1.0, interval_s=10.0, lost_records=1))
        return as_deferred(
            self.route.answer(
                Request(
                    method="POST",
                    path="/v1/reports",
                    target="/v1/reports",
                    authority="reports",
                    arguments={},
                    query={},
                    headers={},
                    repeated=frozenset(),
                    body=body,
                    peer="tunnel",
                    identity=SimpleNamespace(id=id),
                    limit_bytes=REPORT_LIMIT_BYTES,
                )
            )
        )

    def test_a_flood_of_one_is_looked_at_now_and_then_and_others_do_not_wait(self) -> None:
        taken = 0
        for _ in range(1000):
            answered = self.report("se-1")
            answered.addErrback(lambda failure: failure.trap(TooMany) and None)
            taken += self.successResultOf(answered) is not None
        self.assertEqual((taken, self.fleet.get("se-1").lost_records), (BURST, BURST))
        self.assertEqual(self.successResultOf(self.report("se-2")).status, 204)
        self.clock.advance(1 / PER_S)
        self.assertEqual(self.successResultOf(self.report("se-1")).status, 204)

    def test_one_that_reports_as_it_should_is_never_refused(self) -> None:
        for _ in range(1000):
            self.clock.advance(10.0)
            self.successResultOf(self.report("se-1"))
