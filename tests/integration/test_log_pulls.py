"""Real pulls: a tunnel that is cut and a node that is killed in the middle, to the byte; what was tampered with; curl."""

from __future__ import annotations

import json
import os
import subprocess

from demo.machine import AVICTL
from tests.integration.pulls import SEGMENT_BYTES, PullCase, segment


class LogPullTests(PullCase):
    def test_what_was_asked_for_is_pulled_and_a_second_pull_fetches_nothing(self) -> None:
        there = [segment(self.spool("se-1"), "se-1", 1, 10), segment(self.spool("se-1"), "se-1", 11, 5)]
        other = segment(self.spool("se-2"), "se-2", 1, 10)
        self.start("se-1", "se-2")
        shown = self.node.avictl("logs", "pull", "-l", "site=test")
        self.assertEqual((shown.returncode, shown.stderr), (0, b""), shown)
        self.assertIn(b"done: 3 of 3 segments in the archive", shown.stdout)
        self.assertEqual(sorted(self.archived().values()), sorted(each.sha256 for each in [*there, other]))
        again = json.loads(self.node.avictl("-o", "json", "logs", "pull", "se-1").stdout.splitlines()[-1])
        self.assertEqual((again["pull"].get("bytes", 0), again["pull"]["here"]), (0, 2))
        self.machine.until("it is acknowledged", lambda: (self.spool("se-1") / "acknowledged").read_text() == "15")
        events = self.machine.asked("events", "--kind", "log-pull")["items"]
        self.assertEqual(len(events), 2)

    def test_by_hand_through_a_pipe_and_from_a_byte_on(self) -> None:
        manifest = segment(self.spool("se-1"), "se-1", 1, 10)
        self.start("se-1")
        asked = (
            f"GET /v1/log-segments/1-10 HTTP/1.1\r\nhost: logs\r\nconnection: close\r\n"
            f'range: bytes=100-\r\nif-range: "{manifest.sha256}"\r\n\r\n'
        )
        answer = subprocess.run(
            [*AVICTL, "connect", "se-1", "logs"],
            env=self.machine.environment,
            input=asked.encode(),
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 206 "), head)
        whole = next(self.spool("se-1").glob("*.parquet")).read_bytes()
        self.assertEqual(body, whole[100:])

    def test_to_the_byte_past_a_lost_tunnel_and_a_killed_node(self) -> None:
        there = [segment(self.spool("se-1"), "se-1", first, 1000, SEGMENT_BYTES) for first in (1, 1001, 2001)]
        total = sum(each.bytes for each in there)
        self.start("se-1")
        pull = self.node.avictl("logs", "pull", "se-1", "--detach").stdout.decode().strip()
        self.machine.until("some of it has come", self.part)
        self.machine.kill("se-1")
        self.machine.until("it waits", lambda: self.seen(pull)["engines"][0].get("state", "waiting") == "waiting")
        first = self.have()
        self.assertTrue(0 < first < total)
        self.assertEqual(self.seen(pull)["pull"]["bytes"], first, "all that has come was written")
        self.node.start_engine("se-1")
        self.machine.until("more of it has come", lambda: self.have() > first)
        self.machine.kill("controller")
        self.machine.kill("se-1")
        second = self.have()
        self.node.start_controller()
        before = self.seen(pull)["pull"].get("bytes", 0)
        self.assertLessEqual(before, second)
        self.node.start_engine("se-1")
        seen = self.ended(pull)
        self.assertEqual((seen["engines"][0]["state"], seen["pull"]["here"]), ("done", 3), seen)
        self.assertEqual(seen["pull"]["bytes"] - before, total - second, "not a byte has come twice")
        self.assertEqual(sorted(self.archived().values()), sorted(each.sha256 for each in there))
        self.assertEqual(self.part(), 0)

    def test_one_that_was_tampered_with_is_refused_and_the_rest_is_not(self) -> None:
        there = [segment(self.spool("se-1"), "se-1", first, 10) for first in (1, 11, 21)]
        path = self.spool("se-1") / f"{11:020d}-{20:020d}.parquet"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        self.start("se-1")
        shown = self.node.avictl("logs", "pull", "se-1")
        self.assertEqual(shown.returncode, 7)
        self.assertRegex(shown.stderr.decode(), r"^se-1: failed: the segment 11-20 of se-1 .* SHA-256 is another.*\n\Z")
        self.assertEqual(sorted(self.archived().values()), sorted([there[0].sha256, there[2].sha256]))
        self.assertEqual(os.listdir(self.archive / ".incoming"), [])

    def test_a_label_that_matches_nothing_and_a_service_engine_that_is_away(self) -> None:
        shown = self.node.avictl("logs", "pull", "-l", "site=none")
        self.assertEqual((shown.returncode, shown.stderr.count(b"\n")), (3, 1), shown)
        shown = self.node.avictl("logs", "pull", "se-2", "--deadline", "1s")
        self.assertEqual(shown.returncode, 7)
        self.assertIn(b"se-2: unreachable", shown.stderr)
