"""`avictl logs pull`: what is ordered, how far it is on a terminal, what became of it; Ctrl-C leaves it running."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from typing_extensions import override

from avinet.cli import log_progress
from avinet.cli.exits import INTERRUPTED, NOT_FOUND, REFUSED, REMOTE, UNREACHABLE, USAGE
from avinet.wire.log_pulls import LogPullOrder, LogPullSeen, PulledEngine
from avinet.wire.problem import Problem
from tests.cli import fleet
from tests.cli.scripted import PATIENCE_S, Asked, ScriptedCase, problem, said, told

RUNNING = msgspec.structs.replace(
    fleet.LOG_PULL, state="running", finished=None, ended=0, failed=0, bytes_per_s=2.0 * 1024 * 1024, left_s=61.0
)
WELL = LogPullSeen(
    pull=msgspec.structs.replace(fleet.LOG_PULL, failed=0),
    engines=[PulledEngine(id="se-1", state="done"), PulledEngine(id="se-2", state="done")],
)


class PullCase(ScriptedCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.last = fleet.LOG_PULL_SEEN
        self.answers(self.node)

    def node(self, asked: Asked) -> Any:
        if asked.method == "POST":
            return said(RUNNING, 202)
        return told(b"", LogPullSeen(pull=RUNNING), self.last) if asked.target.endswith("progress") else said(self.last)

    @property
    def order(self) -> LogPullOrder:
        return msgspec.json.decode(self.asked[0].body, type=LogPullOrder)


class PullTests(PullCase):
    def test_what_is_ordered(self) -> None:
        before = int(time.time() * 1000)
        self.avictl("logs", "pull", "se-1,se-2", "se-3", "--service", "shop", "--since", "1h", "--until", "now")
        order = self.order
        self.assertEqual((order.ids, order.service, order.deadline_s), (["se-1", "se-2", "se-3"], "shop", 3600))
        assert order.since_ms is not None
        assert order.until_ms is not None
        self.assertAlmostEqual(order.until_ms - order.since_ms, 3_600_000, delta=1000)
        self.assertGreaterEqual(order.until_ms, before)
        self.asked.clear()
        self.avictl("logs", "pull", "-l", "site=paris", "--deadline", "15m", "--budget", "5GiB", "--detach")
        self.assertEqual(self.order, LogPullOrder(selector="site=paris", deadline_s=900, budget_bytes=5 * 1024**3))
        self.assertEqual(len(self.asked), 1)
        self.asked.clear()
        self.avictl("logs", "pull", "se-1", "--again", "--detach")
        self.assertTrue(self.order.again)

    def test_what_was_removed_is_one_number(self) -> None:
        self.last = msgspec.structs.replace(WELL, pull=msgspec.structs.replace(WELL.pull, removed=12))
        said = self.avictl("logs", "pull", "se-1").out
        self.assertTrue(said.endswith("; 12 segments were here before and were removed: too old, or too many\n"), said)

    def test_what_is_wrong_is_not_sent(self) -> None:
        for words in (["se-1", "-l", "a=b"], [], ["-l", " "]):
            self.refused(USAGE, "logs", "pull", *words)
        for words in (
            ["se-1", "--since", "yesterday"],
            ["se-1", "--since", "1h", "--until", "2h"],
            ["se-1", "--budget", "much"],
            ["se-1", "--deadline", "9d"],
            ["SE_1"],
        ):
            self.refused(REFUSED, "logs", "pull", *words)
        self.refused(USAGE, "logs", "pulls", "--cancel")
        self.assertEqual(self.asked, [])

    def test_who_is_not_done_has_a_line_and_the_code_says_so(self) -> None:
        ended = self.avictl("logs", "pull", "se-1,se-2")
        self.assertEqual(ended.code, REMOTE)
        self.assertEqual(
            ended.err.splitlines(),
            [
                "se-1: done: missing records that no gap tells of: 7 (3-9)",
                "se-2: failed: its SHA-256 is another, refused segments: 1",
            ],
        )
        self.assertEqual(
            ended.out,
            "pull 0000000000001-abc done: 11 of 12 segments in the archive, 8.0 MiB fetched in 4s, 2.0 MiB/s;"
            " 1 of 2 service engines not done\n",
        )
        self.last = WELL
        ended = self.avictl("logs", "pull", "se-1,se-2")
        self.assertEqual((ended.code, ended.err), (0, ""))

    def test_as_json_there_is_a_line_for_all_that_is_told(self) -> None:
        ended = self.avictl("logs", "pull", "se-1,se-2", "-o", "json")
        lines = [json.loads(line) for line in ended.out.splitlines()]
        self.assertEqual([line["pull"]["state"] for line in lines if "state" in line["pull"]], ["done"])
        self.assertEqual((len(lines), ended.code), (2, REMOTE))

    def test_a_label_that_matches_nothing_is_one_line(self) -> None:
        self.answers(problem(Problem(status=404, title="?", detail="no service engine matches x=y"), 404))
        self.assertIn("no service engine matches", self.refused(NOT_FOUND, "logs", "pull", "-l", "x=y"))

    def test_what_a_service_engine_says_drives_no_terminal(self) -> None:
        engine = PulledEngine(id="se-1", state="failed", why="\u202eodd\u009b2J")
        self.last = msgspec.structs.replace(fleet.LOG_PULL_SEEN, engines=[engine])
        ended = self.avictl("logs", "pull", "se-1")
        self.assertTrue(ended.err.strip().isprintable(), ended.err)
        self.assertTrue(all(line.isprintable() for line in self.avictl("logs", "pulls", "1-a").out.splitlines()))

    def test_one_and_its_service_engines(self) -> None:
        ended = self.avictl("logs", "pulls", "0000000000001-abc")
        self.assertEqual(ended.code, REMOTE)
        self.assertRegex(ended.out, r"se-2 +failed +5 of 6 .* its SHA-256 is another, refused segments: 1\n")

    def test_a_node_that_is_started_again_is_waited_for(self) -> None:
        self.patch(log_progress, "LOOK_S", 0.0)
        self.last = WELL
        streams: list[bytes] = [
            told(LogPullSeen(pull=RUNNING), whole=False),
            problem(Problem(status=503, title="?", detail="the door is closing"), 503),
            told(WELL),
        ]
        self.answers(lambda asked: said(RUNNING, 202) if asked.method == "POST" else streams.pop(0))
        ended = self.avictl("logs", "pull", "se-1,se-2")
        self.assertEqual(ended.code, 0)
        self.assertEqual(ended.err.count("waiting for the node"), 1)

    def test_and_not_for_ever(self) -> None:
        self.patch(log_progress, "LOOK_S", 0.0)
        self.patch(log_progress, "AWAY_S", -1.0)
        gone = problem(Problem(status=503, title="?", detail="the door is closing"), 503)
        self.answers(lambda asked: said(RUNNING, 202) if asked.method == "POST" else gone)
        ended = self.avictl("logs", "pull", "se-1")
        self.assertEqual(ended.code, UNREACHABLE)
        self.assertIn("the pull goes on when the node is back: avictl logs pulls 0000000000001-abc", ended.err)


class TerminalTests(PullCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.over = threading.Event()
        self.addCleanup(self.over.set)

    @override
    def node(self, asked: Asked) -> Any:
        return said(RUNNING, 202) if asked.method == "POST" else self.endless()

    def endless(self) -> Iterator[bytes]:
        yield told(LogPullSeen(pull=RUNNING), whole=False)
        self.over.wait(PATIENCE_S)

    def test_bytes_rate_and_time_left_are_shown_and_ctrl_c_leaves_it_running(self) -> None:
        code, seen = self.on_terminal("logs", "pull", "se-1,se-2", typed=b"\x03", when=b"1m 1s left")
        self.assertEqual(code, INTERRUPTED)
        self.assertIn(b"0 of 2 service engines", seen)
        self.assertIn(b"11.0 MiB of 12.0 MiB, 2.0 MiB/s, 1m 1s left", seen)
        self.assertIn(b"left running: avictl logs pulls 0000000000001-abc --follow", seen)
        self.assertFalse([each for each in self.asked if "cancellation" in each.target])
