"""`avictl logs tail`: a line for each significant request, which nothing in it can break or drive a terminal with."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from avinet.dataplane.records import Record
from avinet.wire.problem import Problem
from avinet.wire.significant import SeenLeftOut, SeenRecord
from tests.cli import fleet
from tests.cli.scripted import ScriptedCase, problem, said, told
from tests.cli.test_hostile import HOSTILE, driving
from tests.logs.test_significant import record


def seen(**values: Any) -> SeenRecord:
    """A request that failed."""
    found: Record = record(**{"status": 503, "termination": "SC", "time": 1_800_000_000_123, **values})
    return SeenRecord(id="se-1", received=fleet.TIME, why=["status", "refused"], record=msgspec.structs.asdict(found))


class TailTests(ScriptedCase):
    def tail(self, *typed: str, code: int = 0) -> list[str]:
        ended = self.avictl("logs", "tail", *typed)
        self.assertEqual(ended.code, code, ended)
        return ended.out.splitlines()

    def test_each_is_a_line_and_so_is_what_was_held_back(self) -> None:
        asked = {"method": "GET", "host": "shop.example", "path": "/a", "query": "b=1", "client": "192.0.2.7"}
        self.answers(
            told(
                seen(**asked, total_ms=12, pool="p", server="blue", retries=2),
                seen(status=0, service="db", termination="sC"),
                fleet.HELD_BACK,
                SeenLeftOut(events=7),
            )
        )
        self.assertEqual(
            self.tail("--no-follow"),
            [
                "2027-01-15 08:00:00.123Z  se-1  web  503  GET shop.example/a?b=1  12 ms  from 192.0.2.7  to p/blue  "
                "ended SC  retries 2  [status, refused]",
                "2027-01-15 08:00:00.123Z  se-1  db  -  connection  0 ms  from   to no server  ended sC  [status, refused]",
                "2027-01-15 08:00:00.000Z  se-1  web  --  90 held back: more than the limit",
                "--  7 not shown: they came faster than they were read",
            ],
        )

    def test_what_is_asked_for_is_what_was_typed(self) -> None:
        self.answers(told())
        for typed, target in (
            ("", "?lines=20&follow=1"),
            ("se-1 se-2 --no-follow", "?ids=se-1%2Cse-2&lines=20"),
            ("--label site=paris -s web -n 0", "?label=site%3Dparis&service=web&lines=0&follow=1"),
        ):
            self.tail(*typed.split())
            self.assertEqual(self.asked[-1].target, "/v1/significant-logs" + target)
        for bad in ("A/B", "-s ../x", "-n 10001", "-n -1"):
            self.assertNotEqual(self.avictl("logs", "tail", *bad.split()).code, 0, bad)

    def test_nothing_in_a_request_breaks_its_line_or_drives_a_terminal(self) -> None:
        hostile = dict.fromkeys(("method", "host", "path", "query", "pool", "server", "client", "termination"), HOSTILE)
        self.answers(told(seen(**hostile, service=HOSTILE)))
        [line] = self.tail()
        self.assertEqual(driving(line), set())
        self.assertIn("a\\x1b]0;owned", line)

    def test_a_record_with_nothing_in_it_is_shown_all_the_same(self) -> None:
        self.answers(told(SeenRecord(id="se-1", received=fleet.TIME, why=["slow"], record={"time": "x"})))
        [line] = self.tail()
        self.assertTrue(line.startswith("@x  se-1"), line)

    def test_json_is_a_line_for_each(self) -> None:
        self.answers(told(seen(), fleet.HELD_BACK))
        first, second = (json.loads(each) for each in self.tail("-o", "json"))
        self.assertEqual((first["event"], first["record"]["status"]), ("record", 503))
        self.assertEqual((second["event"], second["records"]), ("held_back", 90))

    def test_what_the_node_refuses_is_an_error_of_one_line(self) -> None:
        self.answers(problem(Problem(status=404, title="Not Found", detail="there is no service engine se-9"), 404))
        ended = self.avictl("logs", "tail", "se-9")
        self.assertEqual((ended.code, ended.out), (3, ""))
        self.assertIn("se-9", ended.err)


class ExportTests(ScriptedCase):
    def test_a_service_engine_is_shown_with_what_became_of_its_exports(self) -> None:
        self.answers(said(fleet.ENGINE))
        lines = [each.split("  ") for each in self.avictl("se", "show", "se-1").out.splitlines()]
        [row] = [[cell.strip() for cell in each if cell] for each in lines if each[0].strip() == "soc"]
        self.assertEqual(row, ["soc", "syslog", "all", "12", "2.0 KiB", "7 full, 1 times an unknown number", "away"])
