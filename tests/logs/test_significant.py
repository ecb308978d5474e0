"""Which requests are significant, and how many of them may come: what is held back is counted."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.records import Record
from avinet.dataplane.records import line as line_of
from avinet.errors import Invalid
from avinet.logs.live.significant import Rules
from avinet.logs.live.throttle import OTHER, Throttle
from avinet.wire.config import Config, Significant, VirtualService
from avinet.wire.log import COLUMNS, SEQUENCE
from avinet.wire.message import convert
from avinet.wire.significant import HELD_LIMIT

EMPTY: dict[str, Any] = {each.name: "" if each.kind == "text" else 0 for each in COLUMNS if each is not SEQUENCE}


def record(**values: Any) -> Record:
    """A request that went well, but for these values."""
    return Record(**{**EMPTY, "service": "web", "status": 200, "termination": "--", **values})


def config(*rules: Significant, name: str = "web") -> Config:
    """Virtual services with these rules: web, web-1, web-2."""
    return Config(
        virtual_services=[
            VirtualService(name=f"{name}-{number}" if number else name, port=80 + number, significant=rule)
            for number, rule in enumerate(rules)
        ]
    )


def why(found: Record, rule: Significant | None = None) -> list[str]:
    """Why a record is significant; empty when it is not."""
    chosen = list(Rules(config(rule or Significant())).chosen([found], [line_of(found)]))
    return [each for _, line, reasons in chosen for each in reasons if line == line_of(found)]


class RuleTests(SynchronousTestCase):
    def test_by_default_it_is_errors_slow_ones_refused_ones_and_changes_of_the_server(self) -> None:
        for values, reasons in (
            ({}, []),
            ({"status": 404}, []),
            ({"status": 500}, ["status"]),
            ({"status": 599}, ["status"]),
            ({"status": 600}, []),
            ({"status": 200, "retries": 1}, ["server-change"]),
            ({"status": 503, "termination": "SC", "connect_ms": -1, "response_ms": -1}, ["status", "refused"]),
            ({"status": 504, "termination": "sH", "response_ms": -1}, ["status", "refused"]),
            ({"status": 200, "termination": "SD"}, ["refused"]),
            ({"status": -1, "termination": "CD", "response_ms": -1}, []),
            ({"status": 400, "termination": "PR"}, []),
            ({"status": 502, "termination": "PH"}, ["status", "refused"]),
            ({"status": 0, "termination": "SC", "connect_ms": -1}, ["refused"]),
            ({"status": 0, "termination": "cD", "total_ms": 3_600_000, "connect_ms": 1}, []),
            ({"response_ms": 5000, "total_ms": 5000}, []),
            ({"response_ms": 5001, "total_ms": 5001}, ["slow"]),
            ({"queue_ms": 3000, "connect_ms": 2000, "response_ms": 1, "total_ms": 5001}, ["slow"]),
            ({"response_ms": 10, "total_ms": 60_000}, []),
            ({"status": 503, "connect_ms": -1, "total_ms": 10_001, "termination": "sQ"}, ["status", "slow", "refused"]),
        ):
            self.assertEqual(why(record(**values)), reasons, values)

    def test_each_part_of_the_rule_can_be_another_one(self) -> None:
        rule = Significant(statuses=("404", "5xx"), slower_s=0.1, refused=False, server_changes=False)
        self.assertEqual(why(record(status=404), rule), ["status"])
        self.assertEqual(why(record(status=403), rule), [])
        self.assertEqual(why(record(status=200, retries=3, termination="SD"), rule), [])
        self.assertEqual(why(record(response_ms=101, total_ms=101), rule), ["slow"])
        never = Significant(statuses=(), slower_s=None)
        self.assertEqual(why(record(status=500, response_ms=2**40, total_ms=2**40), never), [])
        self.assertEqual(why(record(status=500), Significant(per_second=0)), [])

    def test_each_virtual_service_has_its_own_and_one_that_is_not_configured_has_none(self) -> None:
        rules = Rules(config(Significant(statuses=()), Significant(statuses=("404",))))
        records = [record(status=each, service=name) for each in (404, 500) for name in ("web", "web-1", "gone")]
        found = [(each.service, each.status) for each, _, _ in rules.chosen(records, [b""] * 6)]
        self.assertEqual(found, [("web-1", 404)])

    @given(st.lists(st.builds(
        record,
        service=st.sampled_from(["web", "web-1", "x"]), status=st.integers(-1, 599), retries=st.integers(0, 1),
        termination=st.sampled_from(["--", "SC", "CD", "PR", "LR"]), queue_ms=st.integers(-1, 3000),
        connect_ms=st.integers(-1, 3000), response_ms=st.integers(-1, 3000), total_ms=st.integers(6000, 9000),
    )))  # fmt: skip
    def test_the_fast_look_chooses_what_the_rules_do(self, records: list[Record]) -> None:
        given_ = config(Significant(slower_s=2.0), Significant(statuses=("2xx",), slower_s=None, refused=False))
        lines = [line_of(each) for each in records]
        alone = [
            (each, line, reasons)
            for each, line in zip(records, lines, strict=True)
            for one in given_.virtual_services
            if one.name == each.service
            for _, _, reasons in Rules(Config(virtual_services=[one])).chosen([each], [line])
        ]
        self.assertEqual(list(Rules(given_).chosen(records, lines)), alone)

    def test_what_is_no_rule_is_refused(self) -> None:
        for bad in ({"statuses": ["6xx"]}, {"statuses": ["50"]}, {"statuses": ["5xx\n"]}, {"per_second": -1},
                    {"per_second": 1001}, {"slower_s": -1}, {"statuses": ["5xx"] * 65}, {"statuses": [500]}):  # fmt: skip
            self.assertRaises(Invalid, convert, bad, Significant, "a rule")
        self.assertEqual(convert({"slower_s": None}, Significant, "a rule").slower_s, None)
        plain = msgspec.json.encode(VirtualService(name="web", port=80))
        self.assertNotIn(b"significant", plain, "which service engines of before would refuse")


class ThrottleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = Throttle(self.clock.seconds, 100)
        self.throttle.configure(config(Significant(), Significant(per_second=0.5), Significant(per_second=0)))

    def taken(self, service: str, tries: int) -> int:
        return sum(self.throttle.take(service) for _ in range(tries))

    def held(self) -> list[tuple[str, str, int]]:
        return [(each.service, each.reason, each.records) for each in self.throttle.held()]

    def test_so_many_a_second_come_and_the_others_are_counted(self) -> None:
        self.assertEqual(self.taken("web", 25), 10)
        self.assertEqual(self.taken("web-1", 3), 1)
        self.assertEqual(self.taken("web-2", 3), 0)
        self.assertEqual(self.held(), [("web", "throttle", 15), ("web-1", "throttle", 2), ("web-2", "throttle", 3)])
        self.assertEqual(self.held(), [])
        self.clock.advance(0.5)
        self.assertEqual(self.taken("web", 25), 5)
        self.clock.advance(3600)
        self.assertEqual(self.taken("web", 25), 10, "what was not used is not saved up")

    def test_one_limit_is_for_all_of_them_together(self) -> None:
        self.throttle = Throttle(self.clock.seconds, 25)
        self.throttle.configure(config(*[Significant()] * 5))
        taken = [self.taken("web" if not number else f"web-{number}", 10) for number in range(5)]
        self.assertEqual(taken, [10, 10, 5, 0, 0])
        self.clock.advance(1)
        self.assertEqual(self.taken("web-4", 20), 10, "what all had no room for has used nothing up")

    def test_a_change_of_another_thing_gives_nobody_anything_anew(self) -> None:
        self.taken("web", 10)
        self.throttle.configure(config(Significant(slower_s=1.0)))
        self.assertEqual(self.taken("web", 10), 0)
        self.throttle.configure(config(Significant(per_second=3)))
        self.assertEqual(self.taken("web", 10), 3)

    def test_names_beyond_the_bound_are_counted_together(self) -> None:
        for number in range(HELD_LIMIT + 100):
            self.throttle.hold(f"x-{number}", "full", 2)
        held = self.held()
        self.assertEqual((len(held), sum(count for _, _, count in held)), (HELD_LIMIT - 1, 2 * (HELD_LIMIT + 100)))
        self.assertIn((OTHER, "full", 204), held)
