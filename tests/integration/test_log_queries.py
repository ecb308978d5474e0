"""Request logs from a client's request to an answer: real traffic, sealed, pulled, and asked of a real node."""

from __future__ import annotations

import array
import csv
import fcntl
import io
import os
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

from typing_extensions import override

from avinet.logs.archive.archive import Archive
from avinet.logs.spool.naming import LINES, PARQUET, open_name, sealed_name
from avinet.logs.spool.orders import Order
from avinet.logs.spool.sealer import seal
from avinet.wire.message import encode
from avinet.wire.query import LogQuery, Measure, Totals
from avinet.wire.segment import manifest_bytes
from bench.records import lines
from demo.machine import AVICTL
from tests.integration.node import PATIENCE_S, NodeCase
from tests.integration.serving import ServingCase

SETTINGS = '\n[spool]\nkeep = "always"\nsync_s = 0.05\nsegment_age_s = 1.0\n'
HOUR_MS = 3_600_000
ROWS = 3000


def unread(process: int) -> int:
    """How many bytes wait on the standard input of a process."""
    found = array.array("i", [0])
    with open(f"/proc/{process}/fd/0", "rb", buffering=0) as pipe:
        fcntl.ioctl(pipe, termios.FIONREAD, found)
    return found[0]


class LogQueryCase(NodeCase):
    engines = ()

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine

    @property
    def archive(self) -> Path:
        return self.node.folder / "controller" / "archive"

    def asked(self, *typed: str) -> Any:
        return self.machine.asked("logs", "query", *typed)

    def refused(self, code: int, said: str, *typed: str) -> None:
        """`avictl logs query` ends with `code`, and with one line in which `said` is found."""
        done = self.node.avictl("logs", "query", *typed)
        line = done.stderr.decode()
        self.assertEqual((done.returncode, done.stdout, line.count("\n")), (code, b"", 1), (typed, done))
        self.assertIn(said, line)


class StoryTests(LogQueryCase, ServingCase):
    @override
    def engine_settings(self) -> str:
        return SETTINGS

    def pulled(self, count: int) -> bool:
        """Whether all of the requests are in the archive, after one more pull."""
        self.machine.avictl("logs", "pull", "se-1")
        return bool(self.asked()["rows"][0][0] == count)

    def test_what_clients_asked_for_is_counted_once_it_is_pulled(self) -> None:
        self.machine.until("it serves", lambda: self.ask("GET", "/first") == 200)
        before = self.asked()
        self.assertEqual((before["rows"][0][0], before["complete"]["nothing_of"]), (0, ["se-1"]))
        for number in range(9):
            self.assertEqual(self.ask("GET", f"/{number % 3}"), 200)
        self.machine.until("all of it is here", lambda: self.pulled(10))
        self.assertEqual(self.asked("--by", "path", "--top", "2")["rows"], [["/0", 3], ["/1", 3]])
        found = self.asked("--rows", "--columns", "path,status,service,engine,server", "-w", "path=/2", "--oldest")
        self.assertEqual(found["rows"], [["/2", 200, "web", "se-1", "s"]] * 3)
        self.assertEqual(self.asked("-l", "site=test", "--measure", "requests")["rows"], [[10]])
        self.refused(3, "no service engine matches site=oslo", "-l", "site=oslo")
        shown = self.machine.avictl("logs", "query", "--every", "1h")
        self.assertIn("nothing is known to be missing", shown)


class ArchiveTests(LogQueryCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.begin_ms = int(time.time() * 1000) - HOUR_MS + 60_000
        self.segments = [self.sealed(number * ROWS + 1, self.begin_ms + number * 60_000) for number in range(3)]

    def sealed(self, first: int, begin_ms: int) -> Path:
        """A segment of `ROWS` records, sealed as a service engine does, in the archive."""
        place = self.node.folder / f"sealing-{first}"
        place.mkdir()
        source = place / open_name(first, LINES)
        source.write_bytes(b"".join(line + b"\n" for line in lines(ROWS, first, begin_ms)))
        order = Order(
            folder=str(place), first=first, lines=ROWS, size=source.stat().st_size, engine="se-1", generation=1
        )
        manifest = seal(order).manifest
        assert manifest is not None
        self.archive.mkdir(exist_ok=True)
        return Archive(self.archive).add(place / sealed_name((first, manifest.last), PARQUET), manifest_bytes(manifest))

    def test_what_is_missing_is_told_below_every_answer(self) -> None:
        self.assertEqual(self.asked()["rows"][0][0], 3 * ROWS)
        for each in (".parquet", ".json"):
            self.segments[1].with_suffix(each).unlink()
        found = self.asked("--measure", "requests")
        self.assertEqual(found["rows"], [[2 * ROWS]])
        self.assertEqual(found["complete"]["gaps"]["reasons"], [{"reason": "not-here", "gaps": 1, "records": ROWS}])
        with self.segments[2].open("r+b") as file:
            file.truncate(100)
        shown = self.machine.avictl("logs", "query", "--by", "service").splitlines()[-1]
        self.assertRegex(
            shown, rf"; missing: {ROWS} records \(not-here {ROWS}\) between .*; what is in 1 damaged segment$"
        )
        (gap,) = self.asked("--gaps")["rows"]
        self.assertEqual(gap[:5], ["se-1", 1, ROWS, ROWS, "not-here"])

    def test_pages_and_spreadsheets_have_each_record_once(self) -> None:
        done = self.node.avictl("logs", "query", "--columns", "seq,path", "--limit", "8000", "-o", "csv")
        rows = list(csv.reader(io.StringIO(done.stdout.decode())))
        self.assertEqual((rows[0], len(rows), len({row[0] for row in rows[1:]})), (["seq", "path"], 8001, 8000))
        self.assertIn(b"nothing is known to be missing", done.stderr)

    def test_bad_questions_are_one_line(self) -> None:
        self.refused(4, "a query may be of 400 days at most", "--since", "10y")
        self.refused(4, "400 days", "--since", "2015-01-01")
        self.refused(3, "no service engine matches nothing=there", "--label", "nothing=there")
        self.refused(3, "no query is kept as slow", "--saved", "slow")

    def test_a_query_is_kept_through_the_death_of_the_node(self) -> None:
        self.machine.avictl("logs", "query", "--since", "1h", "--percentile", "99", "--save", "slow")
        self.machine.kill("controller")
        self.node.start_controller()
        (row,) = self.asked("--saved", "slow")["rows"]
        self.assertEqual(row[0], 0.99)
        self.assertGreater(row[1], 0)
        self.assertIn("log-query-saved", [each["kind"] for each in self.machine.asked("events")["items"]])

    def answering(self) -> int:
        """The process that answers for this node."""
        found = []
        for each in Path("/proc").iterdir():
            if each.name.isdigit():
                try:
                    command = (each / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"avinet.logs.query.worker" in command and str(self.archive).encode() in command:
                    found.append(int(each.name))
        (process,) = found
        return process

    def test_who_goes_makes_room_for_the_next(self) -> None:
        """By Ctrl-C, or killed: the next query would otherwise wait in vain, as long as one may take."""
        query = encode(LogQuery(since_ms=0, until_ms=1, get=Totals(measures=[Measure(of="requests")]))).decode()
        curl = ["curl", "-s", "--unix-socket", str(self.node.folder / "controller.sock"), "-d", query]
        for command, number, status in (
            ([*AVICTL, "logs", "query"], signal.SIGINT, 130),
            ([*curl, "http://node/v1/log-queries"], signal.SIGKILL, -signal.SIGKILL),
        ):
            self.asked()
            self.goes(self.answering(), command, number, status)
            self.assertEqual(self.asked()["rows"][0][0], 3 * ROWS)

    def goes(self, process: int, command: list[str], number: int, status: int) -> None:
        """Have `command` ask, and go by a signal, while the process that answers stands still."""
        os.kill(process, signal.SIGSTOP)
        with subprocess.Popen(
            command, env=self.machine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as asking:
            self.machine.until("the query is put", lambda: unread(process))
            asking.send_signal(number)
            self.assertEqual(asking.wait(PATIENCE_S), status)

    def test_a_query_that_hangs_or_dies_stops_nothing_else(self) -> None:
        self.asked()
        process = self.answering()
        os.kill(process, signal.SIGSTOP)
        with subprocess.Popen(
            [*AVICTL, "logs", "query"], env=self.machine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as asking:
            self.machine.until("the query is put", lambda: unread(process))
            self.assertEqual(self.machine.asked("status")["node"], "node-1")
            self.assertIs(asking.poll(), None)
            os.kill(process, signal.SIGKILL)
            out, err = asking.communicate(timeout=PATIENCE_S)
        self.assertEqual((asking.returncode, out, err.count(b"\n")), (6, b"", 1), err)
        self.assertIn(b"died of this one: killed by signal 9", err)
        self.assertEqual(self.asked()["rows"][0][0], 3 * ROWS)
        self.assertEqual(self.machine.end("controller"), 0)
        self.assertRaises(ValueError, self.answering)
