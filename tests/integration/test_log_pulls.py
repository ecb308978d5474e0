"""Real pulls: a tunnel that is cut and a node that is killed in the middle, to the byte; what was tampered with; curl."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
from typing_extensions import override

from avinet.wire.segment import Manifest, manifest_bytes
from demo.machine import AVICTL
from tests.integration.node import NodeCase

SETTINGS = '\n[spool]\nkeep = "always"\n'
SEGMENT_BYTES = 64 * 1024 * 1024
"""More than comes between two looks."""


def segment(folder: Path, engine: str, first: int, rows: int, size: int = 0) -> Manifest:
    """A sealed segment in the spool of a service engine that does not run; with `size`, of about so many bytes."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    last = first + rows - 1
    path = folder / f"{first:020d}-{last:020d}.parquet"
    begin_ms = int(time.time() * 1000) - 3_600_000
    filler = f"repeat('x', {size // rows})"
    duckdb.sql(
        f"COPY (SELECT seq, {begin_ms} + seq AS time, 'web' AS service, {filler} || seq AS path"
        f" FROM range({first}, {last + 1}) AS r(seq)) TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)"
    )
    data = path.read_bytes()
    manifest = Manifest(
        schema=1,
        engine=engine,
        generation=1,
        first=first,
        last=last,
        rows=rows,
        from_ms=begin_ms + first,
        to_ms=begin_ms + last,
        services={"web": rows},
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    path.with_suffix(".json").write_bytes(manifest_bytes(manifest))
    return manifest


class LogPullTests(NodeCase):
    engines = ()

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.node.expect("se-1", "se-2")
        for id in ("se-1", "se-2"):
            settings = self.node.place(id) / "se.toml"
            settings.write_text(settings.read_text() + SETTINGS)

    def spool(self, id: str) -> Path:
        return self.node.place(id) / "state" / "logs"

    @property
    def archive(self) -> Path:
        return self.node.folder / "controller" / "archive"

    def start(self, *ids: str) -> None:
        for id in ids:
            self.node.start_engine(id)
        for id in ids:
            self.machine.until(f"{id} is connected", lambda id=id: self.node.connected(id))  # type: ignore[misc]

    def archived(self) -> dict[str, str]:
        """The SHA-256 of what is in the archive, by its place."""
        return {
            str(each.relative_to(self.archive)): hashlib.sha256(each.read_bytes()).hexdigest()
            for each in self.archive.glob("se-*/*/*/*.parquet")
        }

    def part(self) -> int:
        """How many bytes of a segment have come that is not whole."""
        sizes = [each.stat().st_size for each in (self.archive / ".incoming").glob("*.part")]
        return sum(sizes) if (self.archive / ".incoming").is_dir() else 0

    def seen(self, pull: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.node.avictl("-o", "json", "logs", "pulls", pull).stdout)
        return found

    def ended(self, pull: str) -> dict[str, Any]:
        return self.machine.until(  # type: ignore[no-any-return]
            "the pull has ended",
            lambda: (seen := self.seen(pull))["pull"].get("state") not in (None, "running") and seen,
        )

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

    def have(self) -> int:
        """How many bytes of segments are here, whole ones or not."""
        return self.part() + sum(each.stat().st_size for each in self.archive.glob("se-*/*/*/*.parquet"))

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
