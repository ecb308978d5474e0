"""What operators are told of traffic over time, and what they may ask for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.controller.api.rollups import rollup_routes
from avinet.errors import Invalid
from avinet.rest.route import Request
from avinet.wire.message import decode, encode
from avinet.wire.rollups import Rollups
from tests.telemetry.rollup_world import START, Did, World, shop

LABELS = {"se-1": {"site": "paris"}, "se-2": {"site": "rome"}, "se-3": {"site": "paris", "old": "1"}}


class RollupRouteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(Path(self.mktemp()).absolute())
        self.addCleanup(self.world.kill)
        records = [SimpleNamespace(id=id, labels=labels) for id, labels in LABELS.items()]
        directory = SimpleNamespace(records=lambda: records)
        node: Any = SimpleNamespace(now=self.world.wall, rollups=self.world.rollups, directory=directory)
        (self.route,) = rollup_routes(node)

    def asked(self, **query: object) -> Deferred[Any]:
        for name in query:
            self.assertIn(name, self.route.query)
        request = Request(
            method="GET",
            path="/v1/rollups",
            target="/v1/rollups",
            authority="node",
            arguments={},
            query={name: str(value) for name, value in query.items()},
            headers={},
            repeated=frozenset(),
            body=b"",
            peer="unix",
            identity="ann",
        )
        return as_deferred(self.route.answer(request))

    def ask(self, **query: object) -> Rollups:
        answer = self.successResultOf(self.asked(**query))
        return decode(encode(answer.body), Rollups, limit_bytes=10**6)

    def refused(self, **query: object) -> str:
        return str(self.failureResultOf(self.asked(**query), Invalid).value)

    def test_what_was_done_as_people_read_it(self) -> None:
        self.world.report("se-1", {"shop": {"web/blue": Did(20, failed=True, buckets=(500,) * 20, open=4)}})
        self.world.pass_s(20)
        self.world.report("se-1", shop(10, buckets=(500,) * 9 + (700,)))
        self.world.pass_s(10)
        said = self.ask(virtual_service="shop", since=START, until=START + 30, step=10)
        ((series,), first, second) = (said.series, *said.series[0].points)
        self.assertEqual((first.time - START, second.time - START), (0, 20), "between them is a hole")
        self.assertEqual((first.requests, first.requests_per_s, first.errors), (20, 2.0, 1))
        self.assertEqual((first.status, first.connections, first.reports), ({"2xx": 19, "5xx": 1}, 4.0, 1))
        self.assertEqual((first.bytes_out, first.bytes_out_per_s), (20_000, 2000.0))
        for percentile_s, bucket in ((first.p50_s, 500), (second.p90_s, 500), (series.total.p99_s, 500)):
            self.assertLess(abs(percentile_s / (1.02**bucket / 1e6) - 1), 0.011)
        total = series.total
        self.assertEqual((total.requests, total.requests_per_s, total.connections), (30, 1.5, 2.0))
        self.assertEqual((said.step_s, said.resolution_s, said.latest - START), (10, 10, 30))

    def test_by_whom_and_of_whom(self) -> None:
        for number, id in enumerate(LABELS, 1):
            self.world.report(id, {"shop": {"web/blue": Did(number), "web/green": Did(10 * number)}})
        self.world.pass_s(10)

        def told(**query: object) -> list[tuple[str, str, int]]:
            series = self.ask(virtual_service="shop", **query).series
            return [(each.service_engine, f"{each.pool}/{each.server}", each.total.requests) for each in series]

        self.assertEqual(told(), [("", "/", 66)])
        self.assertEqual(told(by="server"), [("", "web/green", 60), ("", "web/blue", 6)])
        self.assertEqual(told(by="service-engine"), [("se-3", "/", 33), ("se-2", "/", 22), ("se-1", "/", 11)])
        self.assertEqual(told(label="site=paris"), [("", "/", 44)])
        self.assertEqual(told(label="site=paris,!old", by="server"), [("", "web/green", 10), ("", "web/blue", 1)])
        self.assertEqual(told(service_engine="se-1,se-2", server="web/blue"), [("", "web/blue", 3)])
        self.assertEqual(told(service_engine="se-1,se-2", label="site=rome"), [("", "/", 22)])
        self.assertEqual(told(label="site=oslo"), [])
        limited = self.ask(virtual_service="shop", by="service-engine", limit=2)
        self.assertEqual(([each.service_engine for each in limited.series], limited.left_out), (["se-3", "se-2"], 1))
        self.assertEqual([each.virtual_service for each in self.ask(by="virtual-service").series], ["shop"])

    def test_what_cannot_be_asked_is_refused(self) -> None:
        self.world.pass_s(10)
        for words, query in (
            ("since must be before until", {"since": START + 10, "until": START}),
            ("since must be before until", {"last": 0}),
            ("a number from 0", {"since": "yesterday"}),
            ("by is one of virtual-service, server, service-engine", {"by": "pool"}),
            ("write it as POOL/SERVER", {"server": "blue"}),
            ("pool", {"server": "../blue"}),
            ("virtual_service", {"virtual_service": "../shop"}),
            ("service_engine", {"service_engine": "se-1,,se-2"}),
            ("no label expression", {"label": "site = = paris"}),
            ("a step is a multiple of 10 s", {"step": 15}),
            ("a step of 300", {"since": START - 200_000, "step": 10}),
        ):
            self.assertIn(words, self.refused(**query))
