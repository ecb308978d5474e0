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
from avinet.telemetry.counted import Counted
from avinet.telemetry.fleet import Fleet
from avinet.wire.message import encode
from avinet.wire.report import REPORT_LIMIT_BYTES, Report, ServerHealth, ServiceTraffic


class ReportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.fleet, self.seq = Clock(), Fleet(), 0
        self.reported: list[Report] = []

        def reported(id: str, report: Report, is_new: bool) -> None:
            self.reported.append(report)
            self.assertEqual(bool(report.traffic), is_new)

        (self.route,) = report_routes(
            self.fleet,
            Counted(),
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            reported,
            self.clock.seconds,
        )

    def said(self, id: str, config: Any, boot: str) -> None:
        """No configuration is in these reports."""

    def report(self, id: str, boot: str = "b", seq: int | None = None) -> Any:
        self.seq += 1
        body = encode(
            Report(
                seq=self.seq if seq is None else seq,
                boot=boot,
                time=1.0,
                interval_s=10.0,
                lost_records=1,
                traffic=[ServiceTraffic(name="web", requests=1)],
                health=[ServerHealth(pool="p", server="a", state="up", since=float(self.seq))],
            )
        )
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

    def test_one_that_comes_again_or_late_counts_once_and_its_state_is_believed(self) -> None:
        for boot, seq in (("a", 0), ("a", 1), ("a", 1), ("b", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("a", 2)):
            self.successResultOf(self.report("se-1", boot, seq))
        self.successResultOf(self.report("se-2", "a", 1))
        latest = self.fleet.get("se-1")
        self.assertEqual((latest.lost_records, latest.health[0].since), (5, 9.0))
        self.assertEqual([each.requests for each in latest.traffic(self.clock.seconds())], [5])
        self.assertEqual(sum(len(each.traffic) for each in self.reported), 6, "of all three")
        self.assertEqual(self.fleet.get("se-2").lost_records, 1)

    def test_one_that_reports_as_it_should_is_never_refused(self) -> None:
        for _ in range(1000):
            self.clock.advance(10.0)
            self.successResultOf(self.report("se-1"))
