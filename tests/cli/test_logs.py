"""`avictl logs query`: what is typed becomes a query of the closed model, and an answer says what it does not have."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import Any
from unittest import mock

import msgspec
from click.shell_completion import BashComplete
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.cli.log_answer import bar, curve
from avinet.cli.log_question import filters
from avinet.cli.main import avictl
from avinet.errors import Invalid
from avinet.wire.answer import AnswerColumn, Complete, LogAnswer
from avinet.wire.message import decode, encode
from avinet.wire.query import QUERY_LIMIT_BYTES, LogQuery, Position, cursor
from avinet.wire.saved_query import LogQuestion, When
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, said

NOW = 1_800_000_000.0
NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


class Case(ScriptedCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.answers(said(fleet.LOG_ANSWER))
        stopped = mock.patch.object(time, "time", return_value=NOW)
        stopped.start()
        self.addCleanup(stopped.stop)

    def query(self, *typed: str) -> dict[str, Any]:
        """What the node is asked, which is a query that it takes."""
        ended = self.avictl("logs", "query", *typed)
        self.assertEqual((ended.code, ended.err), (0, ""), ended)
        decode(self.asked[-1].body, LogQuery, limit_bytes=QUERY_LIMIT_BYTES)
        asked: dict[str, Any] = json.loads(self.asked[-1].body)
        return asked


class AskingTests(Case):
    def test_the_time_is_relative_or_absolute(self) -> None:
        for typed, since_ms, until_ms in (
            ("", NOW_MS - HOUR_MS, NOW_MS),
            ("--since 2h --until 30m", NOW_MS - 2 * HOUR_MS, NOW_MS - HOUR_MS // 2),
            ("--since 2027-01-15 --until now", 1_799_971_200_000, NOW_MS),
            ("--since 2027-01-15T06:00 --until 2027-01-15T07:00:00.5Z", 1_799_992_800_000, 1_799_996_400_500),
            ("--since 2027-01-15T06:00+01:00", 1_799_989_200_000, NOW_MS),
        ):
            asked = self.query(*typed.split())
            self.assertEqual((asked["since_ms"], asked["until_ms"]), (since_ms, until_ms), typed)

    def test_places(self) -> None:
        asked = self.query("--se", "se-1,se-2", "--se", "se-3", "--service", "web,shop")
        self.assertEqual((asked["engines"], asked["services"]), (["se-1", "se-2", "se-3"], ["web", "shop"]))
        self.assertEqual(self.query("-l", "site=paris,!old")["selector"], "site=paris,!old")

    def test_shapes(self) -> None:
        total = {"of": "percentile", "column": "total_ms"}
        for typed, get in (
            ("--every 1m", {"shape": "series", "bucket_s": 60, "measures": [{"of": "requests"}, {"of": "errors"}]}),
            ("--every 1m --percentile 99", {"shape": "series", "bucket_s": 60, "measures": [{**total, "quantile": 0.99}]}),
            ("--by path", {"shape": "top", "columns": ["path"], "measure": {"of": "requests"}}),
            ("--by path,status --top 3 --measure mean_response_ms", {
                "shape": "top", "columns": ["path", "status"], "n": 3, "measure": {"of": "mean", "column": "response_ms"},
            }),
            ("--percentile 50,p99.9 --of queue_ms", {
                "shape": "percentiles", "column": "queue_ms", "quantiles": [0.5, 0.999],
            }),
            ("--measure errors,p99_total_ms", {
                "shape": "totals", "measures": [{"of": "errors"}, {**total, "quantile": 0.99}],
            }),
            ("--gaps --limit 7", {"shape": "gaps", "limit": 7}),
            ("--rows --columns path,seq --oldest --limit 7", {
                "shape": "rows", "columns": ["path", "seq"], "limit": 7, "order": "oldest",
            }),
        ):  # fmt: skip
            self.assertEqual(self.query(*typed.split())["get"], get, typed)
        self.assertEqual(len(self.query("--columns", "all")["get"]["columns"]), 31)

    def test_conditions(self) -> None:
        asked = self.query(
            *("-w", "status>=500", "-w", "path^=/api", "-w", "server=a", "-w", "user_agent*=x=y", "-w", "server=b,c"),
            *("-w", "host!=", "-w", "time<2027-01-15T07:00Z"),
        )
        self.assertEqual(
            [(each["column"], each["op"], each["values"]) for each in asked["filters"]],
            [
                ("status", "ge", [500]),
                ("path", "prefix", ["/api"]),
                ("server", "in", ["a", "b,c"]),
                ("user_agent", "contains", ["x=y"]),
                ("host", "ne", [""]),
                ("time", "lt", [1_799_996_400_000]),
            ],
        )

    def test_what_cannot_be_is_one_line_and_nobody_is_asked(self) -> None:
        for typed, code, words in (
            ("--since 10y", 4, "10y ago is too long: a query may be of 400 days at most"),
            ("--since 2016-01-01", 4, "400 days"),
            ("--since 1h --until 2h", 4, "until_ms must be after since_ms"),
            ("--since yester-day", 4, "'yester-day' is no time"),
            ("--where stauts=500", 4, "'stauts' is not a column of request logs; did you mean status?"),
            ("--where status", 4, "'status' is no condition"),
            ("--where status=ok", 4, "'ok' is no number, which status is compared with"),
            ("--where path>=5", 4, "op ge does not go with path"),
            ("--measure p101_total_ms", 4, "no percentile"),
            ("--measure speed", 4, "'speed' is no measure"),
            ("--measure mean_path", 4, "column 'path' is not one of"),
            ("--by pth", 4, "'pth' is not a column"),
            ("--every 1ms", 4, "whole seconds"),
            ("--every 1s --since 7d", 4, "buckets"),
            ("--se ../x", 4, "an id"),
            ("--top 3", 2, "--top needs --by"),
            ("--by path --every 1m", 2, "--every and --by exclude one another"),
            ("--rows --percentile 9", 2, "--rows has no measures"),
            ("--limit 5", 2, "--limit is for --rows and --gaps; add --rows"),
            ("--by path --limit 5", 2, "--limit is for --rows and --gaps; with --by say --top"),
            ("--by path --measure errors,requests", 2, "one measure"),
            ("-l ,", 2, "the label expression is empty"),
            ("--se a -l b", 4, "exclude one another"),
            ("--after x", 4, "after is not the `next` of an answer"),
        ):
            self.assertIn(words, self.refused(code, "logs", "query", *typed.split()), typed)
        self.assertEqual(self.asked, [])

    @given(st.text(), st.sampled_from(["path", "user_agent", "query"]), st.sampled_from(["=", "!=", "^=", "*="]))
    def test_a_value_is_taken_as_it_is(self, value: str, column: str, sign: str) -> None:
        (found,) = filters([f"{column}{sign}{value}"])
        self.assertEqual((found["column"], found["values"]), (column, [value]))

    @given(st.text(max_size=20))
    def test_any_other_text_is_a_filter_or_one_line(self, text: str) -> None:
        try:
            filters([text])
        except Invalid as error:
            self.assertNotIn("\n", str(error))

    def test_names_are_completed_also_behind_a_comma(self) -> None:
        for typed, last, names in (
            ("--by", "client", {"client", "client_port"}),
            ("--columns", "path,ur", set()),
            ("--columns", "path,user", {"path,user_agent"}),
            ("--where", "stat", {"status"}),
            ("--measure", "p99_tot", {"p99_total_ms"}),
        ):
            completed = BashComplete(avictl, {}, "avictl", "_X").get_completions(["logs", "query", typed], last)
            self.assertEqual({each.value for each in completed}, names, typed)


class SavedTests(Case):
    def kept(self, asked: Asked) -> bytes:
        return said(fleet.SAVED_QUERY if asked.target.startswith("/v1/saved") else fleet.LOG_ANSWER)

    def test_relative_times_are_kept_as_they_are(self) -> None:
        self.answers(self.kept)
        typed = ("--since", "2h", "--until", "2027-01-15T07:00Z", "-l", "site=paris", "-w", "status=500")
        ended = self.avictl("logs", "query", *typed, "--by", "path", "--save", "bad")
        self.assertEqual(ended.code, 0, ended)
        (asked,) = self.asked
        self.assertEqual((asked.method, asked.target), ("PUT", "/v1/saved-log-queries/bad"))
        question = decode(asked.body, LogQuestion, limit_bytes=10_000)
        self.assertEqual((question.since, question.until), (When(ago_ms=2 * HOUR_MS), When(at_ms=1_799_996_400_000)))
        self.assertEqual((question.selector, question.filters[0].values), ("site=paris", [500]))

    def test_one_that_is_kept_is_asked_of_now(self) -> None:
        self.answers(self.kept)
        asked = self.query("--saved", "slow")
        self.assertEqual([each.target for each in self.asked], ["/v1/saved-log-queries/slow", "/v1/log-queries"])
        self.assertEqual((asked["since_ms"], asked["until_ms"]), (NOW_MS - 2 * HOUR_MS, NOW_MS))
        self.assertEqual((asked["selector"], asked["get"]), ("site=paris", json.loads(encode(fleet.SLOW))))

    def test_its_times_and_places_may_be_others_and_nothing_else(self) -> None:
        self.answers(self.kept)
        asked = self.query("--saved", "slow", "--since", "5m", "--se", "se-9")
        self.assertEqual((asked["since_ms"], asked["engines"]), (NOW_MS - 300_000, ["se-9"]))
        self.assertNotIn("selector", asked)
        for typed in ("--by path", "-w status=1", "--rows", "--gaps", "--percentile 9"):
            self.assertIn("of its own", self.refused(2, "logs", "query", "--saved", "slow", *typed.split()))

    def test_a_name_that_is_none_is_one_line(self) -> None:
        self.assertIn("is not an id", self.refused(4, "logs", "query", "--saved", "../x"))
        self.assertIn("is not an id", self.refused(4, "logs", "query", "--save", "A B"))
        self.assertEqual(self.asked, [])


class ShowingTests(Case):
    def shown(self, answer: LogAnswer, *typed: str) -> list[str]:
        self.answers(said(answer))
        return self.avictl("logs", "query", *typed).out.splitlines()

    def test_below_the_answer_stands_what_is_missing(self) -> None:
        lines = self.shown(fleet.LOG_ANSWER)
        self.assertEqual(
            lines[2:],
            [
                "2 segments, 15 ms; missing: at least 29 records (crash: nobody knows how many, full 29) between "
                "2027-01-15 08:00:00Z and 2027-01-15 08:00:00.250Z; what is in 1 damaged segment; "
                "anything of 2 service engines: se-2, se-3"
            ],
        )
        whole = msgspec.structs.replace(fleet.LOG_ANSWER, complete=Complete(), segments=1)
        self.assertEqual(self.shown(whole)[2:], ["1 segment, 15 ms; nothing is known to be missing"])

    def test_a_series_has_curves_over_all_of_its_time(self) -> None:
        columns = [AnswerColumn(name="time", kind="time"), AnswerColumn(name="requests", kind="int")]
        columns.append(AnswerColumn(name="p50_total_ms", kind="float"))
        rows: list[Any] = [[NOW_MS - 240_000, 1, 5.0], [NOW_MS - 60_000, 8, 10.0]]
        lines = self.shown(LogAnswer(columns=columns, rows=rows), "--every", "1m", "--since", "5m")
        self.assertEqual(lines[1].split(), ["2027-01-15", "07:56:00Z", "1", "5.0"])
        self.assertEqual(lines[4:6], ["requests      ▁▂▁▁█  0 to 8", "p50_total_ms   ▅  █  5.0 to 10.0"])

    def test_groups_have_bars(self) -> None:
        columns = [AnswerColumn(name="path", kind="text"), AnswerColumn(name="requests", kind="int")]
        answer = LogAnswer(columns=columns, rows=[["/a", 40], ["/b", 10], ["/c", 0]], complete=Complete(more=True))
        lines = self.shown(answer, "--by", "path")
        self.assertEqual(
            lines[1:5], ["/a    40        " + "█" * 20, "/b    10        █████", "/c    0", "there are more than these"]
        )

    def test_pages_of_records_are_followed_up_to_the_limit(self) -> None:
        def page(asked: Asked) -> bytes:
            get = json.loads(asked.body)["get"]
            first = int(get.get("after", "kgA") != "kgA")
            rows: list[Any] = [[f"/{first}/{n}"] for n in range(get.get("limit", 100))]
            return said(
                LogAnswer(columns=[AnswerColumn(name="path", kind="text")], rows=rows, next=CURSORS[first], took_ms=2)
            )

        self.answers(page)
        ended = self.avictl("logs", "query", "--columns", "path", "--limit", "1500")
        self.assertEqual([json.loads(each.body)["get"]["limit"] for each in self.asked], [1000, 500])
        self.assertEqual(json.loads(self.asked[1].body)["get"]["after"], CURSORS[0])
        self.assertEqual(len({(each.target, json.loads(each.body)["until_ms"]) for each in self.asked}), 1)
        lines = ended.out.splitlines()
        self.assertEqual((len(lines), lines[-2]), (1503, f"more: --after {CURSORS[1]}"))
        self.assertIn("4 ms", lines[-1])

    def test_pages_that_go_in_a_circle_end(self) -> None:
        self.answers(said(LogAnswer(columns=[AnswerColumn(name="path", kind="text")], rows=[["/"]], next=CURSORS[0])))
        self.assertIn("do not end", self.refused(6, "logs", "query", "--columns", "path"))

    def test_a_page_of_a_node_of_another_version_is_the_last(self) -> None:
        self.answers(said(LogAnswer(columns=[AnswerColumn(name="path", kind="text")], rows=[["/"]], next=EARLIER)))
        self.assertIn("same version as the node", self.refused(6, "logs", "query", "--columns", "path"))
        self.assertIn("not the `next` of an answer", self.refused(4, "logs", "query", "--rows", "--after", EARLIER))

    def test_csv_has_numbers_as_they_are_and_no_formula(self) -> None:
        """(H8)"""
        columns = [
            AnswerColumn(name=name, kind=kind)
            for name, kind in (("time", "time"), ("user_agent", "text"), ("status", "int"))
        ]
        evil = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a"b,c\nd', "\x1b[2J", ""]
        rows: list[Any] = [[NOW_MS + 7, each, -1] for each in evil]
        self.answers(said(LogAnswer(columns=columns, rows=[*rows, [None, "x", None]])))
        ended = self.avictl("logs", "query", "--rows", "-o", "csv")
        found = list(csv.reader(io.StringIO(ended.out, newline="")))
        self.assertEqual(found[0], ["time", "user_agent", "status"])
        self.assertEqual([each[1] for each in found[1:]], [*(f"'{each}" for each in evil[:6]), *evil[6:], "x"])
        self.assertEqual((found[1][0], found[1][2], found[-1][0]), ("2027-01-15T08:00:00.007Z", "-1", ""))
        self.assertEqual(ended.err, "avictl: 0 segments, 0 ms; nothing is known to be missing\n")

    def test_no_text_of_a_record_drives_a_terminal(self) -> None:
        """(H5)"""
        columns = [AnswerColumn(name="user_agent", kind="text")]
        self.answers(said(LogAnswer(columns=columns, rows=[["a\x1b]0;owned\x07\r\nroot@host#"]])))
        for form in ("table", "csv", "json", "yaml"):
            _, shown = self.on_terminal("logs", "query", "--columns", "user_agent", "-o", form)
            self.assertNotIn(b"\x1b]", shown)
            self.assertNotIn(b"\x07", shown)
            self.assertFalse([line for line in shown.splitlines() if line.startswith(b"root@")])


CURSORS = [cursor(Position(time=time, engine="se-1", generation=1, seq=time)) for time in (253, 289)]
EARLIER = "g6R0aW1lzwAAAaIoyr0-pmVuZ2luZaRzZS0xo3Nlccz9"
"""As nodes had them that did not tell generations apart."""


class DrawingTests(SynchronousTestCase):
    @given(st.lists(st.none() | st.floats(0, 1e12) | st.integers(-5, 10**9), max_size=300), st.integers(1, 80))
    def test_a_curve_is_no_wider_than_it_may_be_and_has_its_highest_point(self, values: list[Any], width: int) -> None:
        drawn = curve(values, width)
        self.assertLessEqual(len(drawn), width)
        most = max((each for each in values if each is not None), default=0)
        self.assertEqual("█" in drawn, most > 0)

    @given(st.floats(0, 1e9), st.floats(0, 1e9))
    def test_a_bar_is_as_long_as_its_part(self, value: float, more: float) -> None:
        drawn = bar(value, value + more)
        self.assertLessEqual(len(drawn), 20)
        self.assertEqual(bool(drawn), value > 0)
