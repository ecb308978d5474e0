"""What service engines send as significant: looked at, counted once, and shown to those who follow it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from msgspec import Raw
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.controller.api.significant import significant_routes
from avinet.controller.significant import BURST, EVENT_BYTES, log_routes
from avinet.dataplane.records import line
from avinet.errors import Invalid, NotFound, TooMany
from avinet.logs.live.recent import Recent
from avinet.rest.route import Request
from avinet.telemetry.counted import Counted
from avinet.wire.message import decode, encode
from avinet.wire.significant import BATCH_LIMIT_BYTES, HeldBack, SeenEvent, Significant, SignificantBatch
from tests.logs.test_significant import record

LABELS = {"se-1": {"site": "paris"}, "se-2": {"site": "rome"}}


class Directory:
    """Two service engines."""

    def require(self, id: str) -> Any:
        if id not in LABELS:
            raise NotFound(f"there is no service engine {id}")
        return self.get(id)

    def get(self, id: str) -> Any:
        return SimpleNamespace(id=id, labels=LABELS[id]) if id in LABELS else None


class SignificantTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.clock.advance(1000)
        self.recent = Recent()
        (self.route,) = log_routes(self.recent, Counted(), self.clock.seconds)
        node: Any = SimpleNamespace(logs=SimpleNamespace(recent=self.recent), directory=Directory())
        (self.shown,) = significant_routes(node)
        self.seq = 0

    def request(self, identity: Any = None, body: bytes = b"", query: dict[str, str] | None = None) -> Request:
        return Request(
            method="POST", path="/", target="/", authority="logs", arguments={}, query=query or {}, headers={},
            repeated=frozenset(), body=body, peer="tunnel", identity=identity, limit_bytes=BATCH_LIMIT_BYTES,
        )  # fmt: skip

    def send(self, id: str, *lines: bytes, seq: int | None = None, boot: str = "b", **rest: Any) -> Any:
        """One batch of the service engine `id`."""
        self.seq += 1
        records = [Significant(why=["status"], record=Raw(each)) for each in lines]
        batch = SignificantBatch(boot=boot, seq=self.seq if seq is None else seq, records=records, **rest)
        return as_deferred(self.route.answer(self.request(SimpleNamespace(id=id), encode(batch))))

    def sent(self, id: str, *lines: bytes, **rest: Any) -> None:
        self.assertEqual(self.successResultOf(self.send(id, *lines, **rest)).status, 204)

    def see(self, **query: str) -> list[Any]:
        """What is there of it."""
        found: list[Any] = []

        async def read() -> None:
            answer: Any = await self.shown.answer(self.request(query=query))
            told = [bytes(each) async for each in answer.messages]
            found.extend(decode(each, SeenEvent, limit_bytes=10**6) for each in told)  # type: ignore[arg-type]

        self.successResultOf(as_deferred(read()))
        return found

    def test_a_record_is_shown_by_the_names_of_its_columns_and_by_the_session_it_came_through(self) -> None:
        self.sent("se-1", line(record(status=503, path="/a", user_agent="\x1b[2J")))
        [seen] = self.see()
        self.assertEqual((seen.id, seen.received, seen.why), ("se-1", 1000.0, ["status"]))
        self.assertEqual(
            (seen.record["status"], seen.record["path"], seen.record["user_agent"]), (503, "/a", "\x1b[2J")
        )

    def test_what_was_held_back_is_an_event_of_its_own(self) -> None:
        held = HeldBack(service="web", reason="throttle", records=90)
        self.sent("se-1", line(record(status=500)), held_back=[held])
        _, seen = self.see()
        self.assertEqual((seen.id, seen.service, seen.reason, seen.records), ("se-1", "web", "throttle", 90))

    def test_one_that_is_sent_again_counts_once(self) -> None:
        for seq in (1, 1, 2, 1):
            self.sent("se-1", line(record(path=f"/{seq}")), seq=seq)
        self.sent("se-2", line(record(path="/other")), seq=1)
        self.assertEqual([each.record["path"] for each in self.see()], ["/1", "/2", "/other"])

    def test_only_what_is_asked_for_is_shown(self) -> None:
        self.sent("se-1", line(record(path="/1")), line(record(path="/2", service="shop")))
        self.sent("se-2", line(record(path="/3")))
        for query, paths in (
            ({}, ["/1", "/2", "/3"]),
            ({"ids": "se-2"}, ["/3"]),
            ({"ids": "se-1,se-2", "service": "web"}, ["/1", "/3"]),
            ({"label": "site!=paris"}, ["/3"]),
            ({"label": "site", "lines": "1"}, ["/3"]),
            ({"lines": "0"}, []),
        ):
            self.assertEqual([each.record["path"] for each in self.see(**query)], paths, query)
        for bad, error in (
            ({"ids": "se-3"}, NotFound),
            ({"ids": "../x"}, Invalid),
            ({"label": "=="}, Invalid),
            ({"service": "A B"}, Invalid),
            ({"lines": "10001"}, Invalid),
        ):
            self.failureResultOf(as_deferred(self.shown.answer(self.request(query=bad))), error)

    def test_a_batch_with_what_is_no_record_is_refused_whole(self) -> None:
        good = line(record(path="/good"))
        for bad in (
            b"{}",
            b"[]",
            b'"x"',
            b"1",
            json.dumps({**json.loads(good), "st": "200"}).encode(),
            json.dumps({**json.loads(good), "st": 2**63}).encode(),
            json.dumps({**json.loads(good), "u": "x" * 8193}).encode(),
            json.dumps({**json.loads(good), **dict.fromkeys("ufaq", "\x01" * 4000)}).encode(),
        ):
            self.failureResultOf(self.send("se-1", good, bad), Invalid)
        self.assertEqual(self.see(), [])
        self.assertGreater(EVENT_BYTES, 2 * 16 * 1024)

    def test_what_is_too_much_is_refused(self) -> None:
        good = line(record())
        self.failureResultOf(self.send("se-1", *[good] * 501), Invalid)
        for held in (
            [HeldBack(service="web", reason="full", records=1)] * 1025,
            [HeldBack(service="A", reason="full", records=1)],
        ):
            self.failureResultOf(self.send("se-1", held_back=held), Invalid)

    def test_a_flood_of_one_is_looked_at_now_and_then_and_others_do_not_wait(self) -> None:
        for _ in range(BURST):
            self.sent("se-1", line(record()))
        self.failureResultOf(self.send("se-1", line(record())), TooMany)
        self.sent("se-2", line(record()))
